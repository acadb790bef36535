"""Which model families come with maxserve? Declared here, one file each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maxserve.architectures.encoders import encoders
from maxserve.core.components import Architecture, WeightMap
from maxserve.core.hookspecs import hookimpl

FUSED = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    },
    ignored=(r".*\.rotary_emb\.inv_freq",),  # saved by old releases of transformers; computed here
)

_EXPERTS = replace(
    FUSED,
    stacked=("experts",),
    # Some checkpoints have all experts in one tensor, which is no module's weight there.
    renames=((r"(\.experts\.(?:gate_up|down)_proj)$", r"\1.weight"), (r"(\.experts\..+_proj)_bias$", r"\1.bias")),
)
_LATENT = replace(_EXPERTS, fused={"gate_up_proj": FUSED.fused["gate_up_proj"]})  # q_proj has no k_proj beside it
_OTHER_WAY_ROUND = (r"\.experts\.(gate_up|down)_proj\.weight$",)  # [experts, inputs, outputs] where unquantized


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
    yield Architecture(
        name="Gemma2ForCausalLM",
        build="maxserve.architectures.gemma2:Model",
        config="maxserve.architectures.gemma2:config",
        weights=FUSED,
        summary="Gemma 2: soft caps, windows in every other layer",
        example_repos=("google/gemma-2-2b-it", "google/gemma-2-9b-it"),
    )
    yield Architecture(
        name="Gemma3ForCausalLM",
        build="maxserve.architectures.gemma3:Model",
        config="maxserve.architectures.gemma3:config",
        weights=FUSED,
        summary="Gemma 3, text: windows with a rope of their own",
        example_repos=("google/gemma-3-1b-it", "google/gemma-3-270m-it"),
    )
    yield Architecture(
        name="Phi3ForCausalLM",
        build="maxserve.architectures.phi3:Model",
        config="maxserve.architectures.phi3:config",
        weights=FUSED,
        summary="Phi 3, 3.5 and 4, dense",
        example_repos=("microsoft/Phi-4-mini-instruct", "microsoft/Phi-3.5-mini-instruct", "microsoft/phi-4"),
    )
    yield Architecture(
        name="GraniteForCausalLM",
        build="maxserve.architectures.granite:Model",
        config="maxserve.architectures.granite:config",
        weights=FUSED,
        summary="Granite 3, dense",
        example_repos=("ibm-granite/granite-3.3-2b-instruct", "ibm-granite/granite-3.1-8b-instruct"),
    )
    yield Architecture(
        name="OlmoForCausalLM",
        build="maxserve.architectures.olmo:Model",
        config="maxserve.architectures.olmo:config",
        weights=FUSED,
        summary="OLMo: norms without weights",
        example_repos=("allenai/OLMo-1B-hf", "allenai/OLMo-7B-hf"),
    )
    yield Architecture(
        name="Olmo2ForCausalLM",
        build="maxserve.architectures.olmo2:Model",
        config="maxserve.architectures.olmo2:config",
        weights=FUSED,
        summary="OLMo 2",
        example_repos=("allenai/OLMo-2-0425-1B-Instruct", "allenai/OLMo-2-1124-7B-Instruct"),
    )
    yield Architecture(
        name="Olmo3ForCausalLM",
        build="maxserve.architectures.olmo3:Model",
        config="maxserve.architectures.olmo3:config",
        weights=FUSED,
        summary="OLMo 3: windows in three of four layers",
        example_repos=("allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-7B-Think"),
    )
    yield Architecture(
        name="Exaone4ForCausalLM",
        build="maxserve.architectures.exaone4:Model",
        config="maxserve.architectures.exaone4:config",
        weights=FUSED,
        summary="EXAONE 4, hybrid and not",
        example_repos=("LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-32B"),
    )
    yield Architecture(
        name="MixtralForCausalLM",
        build="maxserve.architectures.mixtral:Model",
        config="maxserve.architectures.mixtral:config",
        weights=replace(
            _EXPERTS,
            fused={"qkv_proj": FUSED.fused["qkv_proj"], "gate_up_proj": ("w1", "w3")},
            renames=(*_EXPERTS.renames, (r"\.block_sparse_moe\.", ".mlp."), (r"\.w2\.", ".down_proj.")),
        ),
        summary="Mixtral: 8 large experts",
        example_repos=("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    )
    yield Architecture(
        name="Qwen3MoeForCausalLM",
        build="maxserve.architectures.qwen3_moe:Model",
        config="maxserve.architectures.qwen3_moe:config",
        weights=_EXPERTS,
        summary="Qwen 3, mixtures of experts",
        example_repos=("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-235B-A22B"),
    )
    yield Architecture(
        name="GptOssForCausalLM",
        build="maxserve.architectures.gpt_oss:Model",
        config="maxserve.architectures.gpt_oss:config",
        weights=replace(_EXPERTS, transposed=_OTHER_WAY_ROUND),
        packings={"mxfp4": "maxserve.core.model.mxfp4:Mxfp4"},
        summary="GPT-OSS: sinks, windows in every other layer, MXFP4 checkpoints",
        example_repos=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    )
    yield Architecture(
        name="DeepseekV2ForCausalLM",
        build="maxserve.architectures.deepseek_v2:Model",
        config="maxserve.architectures.deepseek_v2:config",
        weights=_LATENT,
        summary="DeepSeek V2: latent attention",
        example_repos=("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2.5"),
    )
    yield Architecture(
        name="DeepseekV3ForCausalLM",
        build="maxserve.architectures.deepseek_v3:Model",
        config="maxserve.architectures.deepseek_v3:config",
        weights=replace(
            _LATENT,
            ignored=(*FUSED.ignored, r"^model\.layers\.61\."),  # predicts a token more, for speculation
            exact=(r"\.e_score_correction_bias$",),
        ),
        packings={"fp8": "maxserve.core.model.fp8:BlockFp8"},
        summary="DeepSeek V3 and R1: latent attention, experts in groups, FP8 checkpoints",
        example_repos=("deepseek-ai/DeepSeek-V3-0324", "deepseek-ai/DeepSeek-R1"),
    )
    llama4 = replace(_EXPERTS, transposed=_OTHER_WAY_ROUND, renames=(*_EXPERTS.renames, (r"\.feed_forward\.", ".mlp.")))
    yield Architecture(
        name="Llama4ForCausalLM",
        build="maxserve.architectures.llama4:Model",
        config="maxserve.architectures.llama4:config",
        weights=llama4,
        summary="Llama 4, text: chunked attention, mixtures of experts",
    )
    yield Architecture(
        name="Llama4ForConditionalGeneration",
        build="maxserve.architectures.llama4:Model",
        config="maxserve.architectures.llama4:conditional_config",
        weights=replace(
            llama4,
            renames=((r"^language_model\.", ""), *llama4.renames),
            ignored=(*FUSED.ignored, r"^vision_model\.", r"^multi_modal_projector\."),
        ),
        summary="Llama 4, the text part of models that take images",
        example_repos=("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"),
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
    yield Architecture(
        name="Mistral3ForConditionalGeneration",
        build="maxserve.architectures.mistral3:Model",
        config="maxserve.architectures.mistral3:config",
        weights=SEEING,
        images="maxserve.architectures.pixtral:RowsOfTokens",
        summary="Mistral 3: Pixtral beside Mistral",
        example_repos=("mistralai/Mistral-Small-3.1-24B-Instruct-2503",),
    )
    yield Architecture(
        name="InternVLForConditionalGeneration",
        build="maxserve.architectures.internvl:model",
        config="maxserve.architectures.internvl:config",
        weights=SEEING,
        images="maxserve.architectures.internvl:Images",
        refused={
            "InternVLChatModel": "checkpoints of that name bring code of their own; take the one whose name ends in "
            "-hf, such as OpenGVLab/InternVL3-1B-hf"
        },
        summary="InternVL 2.5 to 3.5 beside Qwen 2, Qwen 3 or Llama",
        example_repos=("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3_5-1B-HF"),
    )
    yield Architecture(
        name="Gemma3ForConditionalGeneration",
        build="maxserve.architectures.gemma3_vision:Model",
        config="maxserve.architectures.gemma3_vision:config",
        weights=SEEING,
        images="maxserve.architectures.gemma3_vision:Images",
        summary="Gemma 3: SigLIP beside the text model",
        example_repos=("google/gemma-3-4b-it", "google/gemma-3-27b-it"),
    )
    yield Architecture(
        name="Qwen2_5_VLForConditionalGeneration",
        build="maxserve.architectures.qwen2_5_vl:Model",
        config="maxserve.architectures.qwen2_5_vl:config",
        weights=SEEING,
        images="maxserve.architectures.qwen2_5_vl:Images",
        summary="Qwen 2.5 VL",
        example_repos=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    )
    yield Architecture(
        name="Qwen3VLForConditionalGeneration",
        build="maxserve.architectures.qwen3_vl:Model",
        config="maxserve.architectures.qwen3_vl:config",
        weights=SEEING,
        images="maxserve.architectures.qwen3_vl:Images",
        summary="Qwen 3 VL, dense",
        example_repos=("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    )
    yield from encoders()
