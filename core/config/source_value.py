"""The source value of an option: what was given, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class SourceValue:
    """A value as it was written; `where` names the spot in messages."""

    value: Any
    where: str


Source: TypeAlias = dict[str, SourceValue]  # by the option's path, "section.field"
