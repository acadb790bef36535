"""Vision-language families that come with maxserve, one file each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maxserve.architectures.weight_maps import EXPERTS, INTERNVL_CHAT, OTHER_WAY_ROUND, VISION_LANGUAGE
from maxserve.interfaces.architecture import Architecture


def vision_language_models() -> Iterable[Architecture]:
    """Vision-language models. Their towers' parameters lie under `tower.`, whatever the age of the checkpoint."""
    yield Architecture(
        name="LlavaForConditionalGeneration",
        build="maxserve.architectures.llava:Model",
        config="maxserve.architectures.llava:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.llava:images",
        summary="Llava: CLIP or Pixtral beside Llama or Mistral",
        example_repos=("llava-hf/llava-1.5-7b-hf", "mistral-community/pixtral-12b"),
    )
    yield Architecture(
        name="Idefics3ForConditionalGeneration",
        build="maxserve.architectures.idefics3:Model",
        config="maxserve.architectures.idefics3:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.idefics3:Images",
        summary="Idefics 3: SigLIP over tiles beside Llama 3",
        example_repos=("HuggingFaceM4/Idefics3-8B-Llama3",),
    )
    yield Architecture(
        name="Mistral3ForConditionalGeneration",
        build="maxserve.architectures.mistral3:Model",
        config="maxserve.architectures.mistral3:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.pixtral:RowsOfTokens",
        summary="Mistral 3: Pixtral beside Mistral",
        example_repos=("mistralai/Mistral-Small-3.1-24B-Instruct-2503",),
    )
    yield Architecture(
        name="InternVLForConditionalGeneration",
        build="maxserve.architectures.internvl:model",
        config="maxserve.architectures.internvl:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.internvl:Images",
        summary="InternVL 2.5 to 3.5 beside Qwen 2, Qwen 3 or Llama",
        example_repos=("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3_5-1B-HF"),
    )
    yield Architecture(
        name="InternVLChatModel",
        build="maxserve.architectures.internvl:model",
        config="maxserve.architectures.internvl_chat:config",
        weights=INTERNVL_CHAT,
        images="maxserve.architectures.internvl_chat:Images",
        summary="InternVL 2 to 3.5 in their authors' own form, beside Qwen 2, Qwen 3 or Llama",
        example_repos=("OpenGVLab/InternVL3-8B", "OpenGVLab/InternVL3_5-8B"),
    )
    yield Architecture(
        name="Gemma3ForConditionalGeneration",
        build="maxserve.architectures.gemma3_vision:Model",
        config="maxserve.architectures.gemma3_vision:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.gemma3_vision:Images",
        summary="Gemma 3: SigLIP beside the text model",
        example_repos=("google/gemma-3-4b-it", "google/gemma-3-27b-it"),
    )
    yield Architecture(
        name="Qwen2_5_VLForConditionalGeneration",
        build="maxserve.architectures.qwen2_5_vl:Model",
        config="maxserve.architectures.qwen2_5_vl:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.qwen2_5_vl:Images",
        summary="Qwen 2.5 VL",
        example_repos=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    )
    yield Architecture(
        name="Qwen3VLForConditionalGeneration",
        build="maxserve.architectures.qwen3_vl:Model",
        config="maxserve.architectures.qwen3_vl:config",
        weights=VISION_LANGUAGE,
        images="maxserve.architectures.qwen3_vl:Images",
        summary="Qwen 3 VL, dense",
        example_repos=("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    )
    yield Architecture(
        name="Qwen3VLMoeForConditionalGeneration",
        build="maxserve.architectures.qwen3_vl:MixtureModel",
        config="maxserve.architectures.qwen3_vl:mixture_config",
        weights=replace(
            VISION_LANGUAGE,
            renames=(*VISION_LANGUAGE.renames, *EXPERTS.renames),
            stacked=EXPERTS.stacked,
            either_way=OTHER_WAY_ROUND,  # the authors' are, and those that transformers writes are not
        ),
        images="maxserve.architectures.qwen3_vl:Images",
        summary="Qwen 3 VL, mixtures of experts",
        example_repos=("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Instruct"),
    )
