"""Settings of plugins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from maxserve.core.interfaces.component import Ref


__all__ = ["ConfigSection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSection:
    """A plugin's own settings: a frozen dataclass; `[name]` in the file, `--name.field`, MAX_SERVE_NAME_FIELD."""

    kind: ClassVar[str] = "config"

    name: str
    schema: Ref
