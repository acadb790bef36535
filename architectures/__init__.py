"""The model families that come with maxserve. Declared here, one file each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maxserve import hookimpl
from maxserve.architectures.encoders import encoders
from maxserve.architectures.vision_language import vision_language_models
from maxserve.architectures.weight_maps import EXAONE, EXPERTS, FUSED, LATENT, MIMO, OTHER_WAY_ROUND
from maxserve.interfaces.architecture import Architecture


@hookimpl
def maxserve_architectures() -> Iterable[Architecture]:
    yield Architecture(
        name="LlamaForCausalLM",
        build="maxserve.architectures.llama:Model",
        config="maxserve.architectures.llama:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Llama 1 to 3 and what shares its shape",
        example_repos=("meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    )
    yield Architecture(
        name="Qwen3ForCausalLM",
        build="maxserve.architectures.qwen3:Model",
        config="maxserve.architectures.qwen3:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Qwen 3, dense",
        example_repos=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"),
    )
    yield Architecture(
        name="MistralForCausalLM",
        build="maxserve.architectures.mistral:Model",
        config="maxserve.architectures.mistral:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Mistral, with a window in all layers or none",
        example_repos=("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.1"),
    )
    yield Architecture(
        name="Qwen2ForCausalLM",
        build="maxserve.architectures.qwen2:Model",
        config="maxserve.architectures.qwen2:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Qwen 2 and 2.5",
        example_repos=("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
    )
    yield Architecture(
        name="MiMoForCausalLM",
        build="maxserve.architectures.qwen2:Model",
        config="maxserve.architectures.qwen2:config",
        weights=MIMO,
        draft_head="maxserve.architectures.mimo:draft_head",
        tensor_parallel=True,
        summary="MiMo: a Qwen 2 with layers that predict further tokens",
        example_repos=("XiaomiMiMo/MiMo-7B-RL", "XiaomiMiMo/MiMo-7B-Base"),
    )
    yield Architecture(
        name="Gemma2ForCausalLM",
        build="maxserve.architectures.gemma2:Model",
        config="maxserve.architectures.gemma2:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Gemma 2: soft caps, windows in every other layer",
        example_repos=("google/gemma-2-2b-it", "google/gemma-2-9b-it"),
    )
    yield Architecture(
        name="Gemma3ForCausalLM",
        build="maxserve.architectures.gemma3:Model",
        config="maxserve.architectures.gemma3:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Gemma 3, text: windows with a rope of their own",
        example_repos=("google/gemma-3-1b-it", "google/gemma-3-270m-it"),
    )
    yield Architecture(
        name="Phi3ForCausalLM",
        build="maxserve.architectures.phi3:Model",
        config="maxserve.architectures.phi3:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Phi 3, 3.5 and 4, dense",
        example_repos=("microsoft/Phi-4-mini-instruct", "microsoft/Phi-3.5-mini-instruct", "microsoft/phi-4"),
    )
    yield Architecture(
        name="GraniteForCausalLM",
        build="maxserve.architectures.granite:Model",
        config="maxserve.architectures.granite:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="Granite 3, dense",
        example_repos=("ibm-granite/granite-3.3-2b-instruct", "ibm-granite/granite-3.1-8b-instruct"),
    )
    yield Architecture(
        name="OlmoForCausalLM",
        build="maxserve.architectures.olmo:Model",
        config="maxserve.architectures.olmo:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="OLMo: norms without weights",
        example_repos=("allenai/OLMo-1B-hf", "allenai/OLMo-7B-hf"),
    )
    yield Architecture(
        name="Olmo2ForCausalLM",
        build="maxserve.architectures.olmo2:Model",
        config="maxserve.architectures.olmo2:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="OLMo 2",
        example_repos=("allenai/OLMo-2-0425-1B-Instruct", "allenai/OLMo-2-1124-7B-Instruct"),
    )
    yield Architecture(
        name="Olmo3ForCausalLM",
        build="maxserve.architectures.olmo3:Model",
        config="maxserve.architectures.olmo3:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="OLMo 3: windows in three of four layers",
        example_repos=("allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-7B-Think"),
    )
    yield Architecture(
        name="ExaoneForCausalLM",
        build="maxserve.architectures.exaone:Model",
        config="maxserve.architectures.exaone:config",
        weights=EXAONE,
        tensor_parallel=True,
        summary="EXAONE 3 and 3.5",
        example_repos=("LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct", "LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct"),
    )
    yield Architecture(
        name="Exaone4ForCausalLM",
        build="maxserve.architectures.exaone4:Model",
        config="maxserve.architectures.exaone4:config",
        weights=FUSED,
        tensor_parallel=True,
        summary="EXAONE 4, hybrid and not",
        example_repos=("LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-32B"),
    )
    yield Architecture(
        name="MixtralForCausalLM",
        build="maxserve.architectures.mixtral:Model",
        config="maxserve.architectures.mixtral:config",
        weights=replace(
            EXPERTS,
            fused={"qkv_proj": FUSED.fused["qkv_proj"], "gate_up_proj": ("w1", "w3")},
            renames=(*EXPERTS.renames, (r"\.block_sparse_moe\.", ".mlp."), (r"\.w2\.", ".down_proj.")),
        ),
        tensor_parallel=True,
        summary="Mixtral: 8 large experts",
        example_repos=("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    )
    yield Architecture(
        name="Qwen3MoeForCausalLM",
        build="maxserve.architectures.qwen3_moe:Model",
        config="maxserve.architectures.qwen3_moe:config",
        weights=EXPERTS,
        tensor_parallel=True,
        summary="Qwen 3, mixtures of experts",
        example_repos=("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-235B-A22B"),
    )
    yield Architecture(
        name="GptOssForCausalLM",
        build="maxserve.architectures.gpt_oss:Model",
        config="maxserve.architectures.gpt_oss:config",
        weights=replace(EXPERTS, transposed=OTHER_WAY_ROUND),
        tensor_parallel=True,
        summary="GPT-OSS: sinks, windows in every other layer, MXFP4 checkpoints",
        example_repos=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    )
    yield Architecture(
        name="DeepseekV2ForCausalLM",
        build="maxserve.architectures.deepseek_v2:Model",
        config="maxserve.architectures.deepseek_v2:config",
        weights=LATENT,
        tensor_parallel=True,
        summary="DeepSeek V2: latent attention",
        example_repos=("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2.5"),
    )
    yield Architecture(
        name="DeepseekV3ForCausalLM",
        aliases=("DeepseekV3ForCausalLMNextN",),  # its further layer alone, which drafts
        build="maxserve.architectures.deepseek_v3:Model",
        config="maxserve.architectures.deepseek_v3:config",
        weights="maxserve.architectures.deepseek_v3:weights",
        draft_head="maxserve.architectures.deepseek_v32:draft_head",
        tensor_parallel=True,
        summary="DeepSeek V3 and R1: latent attention, experts in groups, FP8 checkpoints",
        example_repos=("deepseek-ai/DeepSeek-V3-0324", "deepseek-ai/DeepSeek-R1"),
    )
    yield Architecture(
        name="DeepseekV32ForCausalLM",
        aliases=("DeepseekV3_2ForCausalLM", "DeepseekV32ForCausalLMNextN"),
        build="maxserve.architectures.deepseek_v32:Model",
        config="maxserve.architectures.deepseek_v32:config",
        weights="maxserve.architectures.deepseek_v32:weights",
        draft_head="maxserve.architectures.deepseek_v32:draft_head",
        tensor_parallel=True,
        summary="DeepSeek V3.2: a V3 whose tokens choose what they look at, FP8 checkpoints",
        example_repos=("deepseek-ai/DeepSeek-V3.2", "deepseek-ai/DeepSeek-V3.2-Exp"),
    )
    llama4 = replace(EXPERTS, transposed=OTHER_WAY_ROUND, renames=(*EXPERTS.renames, (r"\.feed_forward\.", ".mlp.")))
    yield Architecture(
        name="Llama4ForCausalLM",
        build="maxserve.architectures.llama4:Model",
        config="maxserve.architectures.llama4:config",
        weights=llama4,
        tensor_parallel=True,
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
        tensor_parallel=True,
        summary="Llama 4, the text part of models that take images",
        example_repos=("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"),
    )
    yield from vision_language_models()
    yield from encoders()
