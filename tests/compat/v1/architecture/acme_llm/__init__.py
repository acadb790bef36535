"""Serves AcmeForCausalLM checkpoints. Imported at every start of `max`, so no torch here."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import Architecture, WeightMap, hookimpl

WEIGHTS = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }
)


@hookimpl
def maxserve_architectures() -> Iterable[Architecture]:
    yield Architecture(
        name="AcmeForCausalLM",
        build="acme_llm.model:Model",
        weights=WEIGHTS,
        summary="Acme's decoder: queries and keys are normalised per head",
    )
