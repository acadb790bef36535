"""What is known of an encoder's vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.interfaces.engine import SCORING, VectorInfo
from maxserve.interfaces.errors import ModelError
from maxserve.plugins.embeddings.sentence import Recipe


def vector_info(
    recipe: Recipe, config: Mapping[str, Any], *, task: str, dim: int, pooled: bool, matryoshka: bool
) -> VectorInfo:
    """What `recipe` and config.json say; `dim` is the size of a token's vector, `matryoshka` that of the family."""
    if task == SCORING:
        return VectorInfo(lower=recipe.lower)
    return VectorInfo(
        size=recipe.dimension(dim) if pooled else dim,
        sizes=sizes(config, matryoshka) if pooled else None,
        pooled=pooled,
        normalized=recipe.normalized,
        lower=recipe.lower,
        prompts=recipe.prompts,
        default_prompt=recipe.default_prompt,
        include_prompt=recipe.include_prompt,
    )


def sizes(config: Mapping[str, Any], matryoshka: bool) -> tuple[int, ...] | None:
    """The sizes that vectors may be cut to: None for no other, empty for any; config.json's word is above `matryoshka`.

    Its keys are those that vLLM reads: `matryoshka_dimensions` (a list) and `is_matryoshka`.
    """
    listed = config.get("matryoshka_dimensions")
    if listed is not None:
        if not isinstance(listed, list) or not all(isinstance(size, int) and size > 0 for size in listed):
            raise ModelError(f"config.json: matryoshka_dimensions is {listed!r}, but must be a list of sizes")
        return tuple(sorted(listed)) or None
    return () if bool(config.get("is_matryoshka", matryoshka)) else None
