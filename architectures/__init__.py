"""Which model families come with maxserve? Declared here, one file each."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve.core.components import Architecture, WeightMap
from maxserve.core.hookspecs import hookimpl

FUSED = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    },
    ignored=(r".*\.rotary_emb\.inv_freq",),  # saved by old releases of transformers; computed here
)


@hookimpl
def maxserve_architectures() -> Iterable[Architecture]:
    yield Architecture(
        name="LlamaForCausalLM",
        build="maxserve.architectures.llama:Model",
        config="maxserve.architectures.llama:config",
        weights=FUSED,
        summary="Llama 1 to 3 and what shares its shape",
        example_repos=("meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    )
    yield Architecture(
        name="Qwen3ForCausalLM",
        build="maxserve.architectures.qwen3:Model",
        config="maxserve.architectures.qwen3:config",
        weights=FUSED,
        summary="Qwen 3, dense",
        example_repos=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"),
    )
    yield Architecture(
        name="MistralForCausalLM",
        build="maxserve.architectures.mistral:Model",
        config="maxserve.architectures.mistral:config",
        weights=FUSED,
        summary="Mistral, with a window in all layers or none",
        example_repos=("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.1"),
    )
    yield Architecture(
        name="Qwen2ForCausalLM",
        build="maxserve.architectures.qwen2:Model",
        config="maxserve.architectures.qwen2:config",
        weights=FUSED,
        summary="Qwen 2 and 2.5",
        example_repos=("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
    )
