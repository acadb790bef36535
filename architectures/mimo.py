"""MiMo: a Qwen 2 with layers that predict further tokens (Xiaomi, arXiv 2505.07608)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from maxserve.architectures.layers import PreNormBlock
from maxserve.architectures.layers.draft_head import NextTokenHead, head_config
from maxserve.architectures.qwen2 import config
from maxserve.architectures.weight_maps import FUSED

if TYPE_CHECKING:
    from maxserve.interfaces.speculator import DraftHeadContext

LAYERS = r"^model\.mtp_layers\."
HEAD = replace(
    FUSED,
    renames=(
        (LAYERS + r"0\.token_layernorm\.", "enorm."),
        (LAYERS + r"0\.hidden_layernorm\.", "hnorm."),
        (LAYERS + r"0\.input_proj\.", "eh_proj."),
        (LAYERS + r"0\.final_layernorm\.", "norm."),
        (LAYERS + r"0\.", "layers.0."),
        *FUSED.renames,
    ),
    ignored=(r"^(?!model\.mtp_layers\.0\.)", *FUSED.ignored),
)


class Head(NextTokenHead):
    """Reads the state of the target first, then the embedding."""

    hidden_first = True


def draft_head(context: DraftHeadContext) -> Head | None:
    """The first of its layers that predict further tokens."""
    if not any(re.match(LAYERS + r"0\.input_proj\.", name) for name in context.checkpoint.tensors):
        return None
    return Head(head_config(config(context.checkpoint.config), context), HEAD, PreNormBlock)
