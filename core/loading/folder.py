"""A model's folder as architectures see it before they are built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """Where a model's config and tokenizer lie, for architectures that read more than config.json.

    `config` is the content of config.json. Python code that lies there may run only if it is `trusted`
    (`--trust-remote-code`).
    """

    path: str
    config: Mapping[str, Any]
    trusted: bool = False
