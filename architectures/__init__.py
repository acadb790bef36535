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

# The text part goes by several names, and so do the modules beside it: those of transformers today come last.
SEEING = WeightMap(
    fused=FUSED.fused,
    renames=(
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^(model\.language_model|language_model\.model|model\.text_model)\.", "model."),
        (r"^(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|connector)\.", r"tower.\2."),
        (r"^tower\.vision_tower\.vision_model\.", "tower.vision_tower."),
    ),
    ignored=(*FUSED.ignored, r"\.position_ids$"),
)


@hookimpl
def maxserve_architectures() -> Iterable[Architecture]:
    yield Architecture(
        name="LlamaForCausalLM",
        build="maxserve.architectures.llama:Model",
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
    yield from _vision()


def _vision() -> Iterable[Architecture]:
    """Models that see. Their towers' parameters lie under `tower.`, whatever the age of the checkpoint."""
    yield Architecture(
        name="LlavaForConditionalGeneration",
        build="maxserve.architectures.llava:Model",
        config="maxserve.architectures.llava:config",
        weights=SEEING,
        images="maxserve.architectures.llava:images",
        summary="Llava: CLIP or Pixtral beside Llama or Mistral",
        example_repos=("llava-hf/llava-1.5-7b-hf", "mistral-community/pixtral-12b"),
    )
    yield Architecture(
        name="Idefics3ForConditionalGeneration",
        build="maxserve.architectures.idefics3:Model",
        config="maxserve.architectures.idefics3:config",
        weights=SEEING,
        images="maxserve.architectures.idefics3:Images",
        summary="Idefics 3: SigLIP over tiles beside Llama 3",
        example_repos=("HuggingFaceM4/Idefics3-8B-Llama3",),
    )
