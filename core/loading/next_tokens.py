"""The layers of a checkpoint that predict further tokens, for speculation: they follow the model's own.

Families number them on from `num_hidden_layers`. Answers do without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

_COUNTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers")
_MOST = 64  # of a config that makes sense


def next_token_layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Expressions of their names, as checkpoints have them, by the content of config.json; none where it has none."""
    part = config.get("text_config")
    for raw in (config, part if isinstance(part, Mapping) else {}):
        first, count = raw.get("num_hidden_layers"), next((raw[key] for key in _COUNTS if key in raw), None)
        if _is_count(first) and _is_count(count):
            layers = min(max(count, 1), _MOST)  # 0 switches them off; the checkpoint keeps its own
            return (layer_pattern(first, layers),)
    return ()


def layer_pattern(first: int, count: int) -> str:
    """An expression of the names of `count` layers from number `first` on."""
    return rf"(^|\.)layers\.({'|'.join(str(first + i) for i in range(count))})\."


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
