"""Models that see, each against transformers'."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Idefics3Config,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLConfig,
    SiglipVisionConfig,
)

from maxserve.testing import VisionChecks

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 19,
    "pad_token_id": None,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}


class TestLlava(VisionChecks):
    architecture = "LlavaForConditionalGeneration"
    tokens = ("<image>",)
    hf_configs: ClassVar = {
        "default": lambda: LlavaConfig(
            vision_config=CLIPVisionConfig(**TOWER), text_config=LlamaConfig(**TEXT), image_token_index=0
        ),
        "full, several layers": lambda: LlavaConfig(
            vision_config=CLIPVisionConfig(**TOWER),
            text_config=LlamaConfig(**TEXT),
            image_token_index=0,
            vision_feature_select_strategy="full",
            vision_feature_layer=[-1, 1],
        ),
    }

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})


class TestPixtral(VisionChecks):
    architecture = "LlavaForConditionalGeneration"
    tokens = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    hf_configs: ClassVar = {
        "mistral": lambda: LlavaConfig(
            vision_config=PixtralVisionConfig(**TOWER),
            text_config=MistralConfig(**TEXT, sliding_window=None),
            image_token_index=0,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    }

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

        return PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14})


class TestIdefics3(VisionChecks):
    architecture = "Idefics3ForConditionalGeneration"
    tokens = (
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)),
    )
    hf_configs: ClassVar = {
        "tiles": lambda: Idefics3Config(
            vision_config={**TOWER, "image_size": 32, "patch_size": 8},
            text_config=LlamaConfig(**TEXT),
            image_token_id=0,
            scale_factor=2,
        )
    }

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

        return Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})


class TestMistral3(TestPixtral):
    architecture = "Mistral3ForConditionalGeneration"
    hf_configs: ClassVar = {
        "squares of two": lambda: Mistral3Config(
            vision_config=PixtralVisionConfig(**{**TOWER, "image_size": 56}),
            text_config=MistralConfig(**TEXT, sliding_window=None),
            image_token_index=0,
            spatial_merge_size=2,
            tie_word_embeddings=False,
        )
    }

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

        return PixtralImageProcessorPil(size={"longest_edge": 84}, patch_size={"height": 28, "width": 28})


class TestInternVL(VisionChecks):
    architecture = "InternVLForConditionalGeneration"
    tokens = ("<IMG_CONTEXT>", "<img>", "</img>")
    hf_configs: ClassVar = {
        name: lambda text=text: InternVLConfig(
            vision_config=InternVLVisionConfig(**TOWER),
            text_config=text(**TEXT),
            image_token_id=0,
            tie_word_embeddings=False,
        )
        for name, text in (("qwen 2", Qwen2Config), ("qwen 3", Qwen3Config), ("llama", LlamaConfig))
    }

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        return GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4)


class TestGemma3(VisionChecks):
    architecture = "Gemma3ForConditionalGeneration"
    tokens = ("<image_soft_token>", "<start_of_image>", "<end_of_image>")
    hf_configs: ClassVar = {
        "windows": lambda: Gemma3Config(
            vision_config=SiglipVisionConfig(**TOWER),
            text_config=Gemma3TextConfig(
                **TEXT,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                query_pre_attn_scalar=16,
            ),
            image_token_index=0,
            boi_token_index=1,
            eoi_token_index=2,
            mm_tokens_per_image=16,
        )
    }

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        return Gemma3ImageProcessorPil(size={"height": 56, "width": 56})

    @classmethod
    def inputs(cls, tokens: list[int], made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        types = (torch.tensor([tokens]) == 0).long()
        return {"pixel_values": made["pixel_values"], "token_type_ids": types}


class _QwenVL(VisionChecks):
    tokens = ("<|image_pad|>",)

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
        patch = hf_config.vision_config.patch_size
        return Qwen2VLImageProcessorPil(size=size, patch_size=patch, temporal_patch_size=2, merge_size=2)

    @classmethod
    def inputs(cls, tokens: list[int], made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**made, "mm_token_type_ids": (torch.tensor([tokens]) == 0).long()}


class TestQwen25VL(_QwenVL):
    architecture = "Qwen2_5_VLForConditionalGeneration"
    hf_configs: ClassVar = {
        "plain": lambda: Qwen2_5_VLConfig(
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "out_hidden_size": 64,
                "patch_size": 8,
                "window_size": 32,
                "fullatt_block_indexes": [1],
            },
            text_config={
                **{k: v for k, v in TEXT.items() if k != "head_dim"},
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
            },
            image_token_id=0,
            tie_word_embeddings=False,
        )
    }


class TestQwen3VL(_QwenVL):
    architecture = "Qwen3VLForConditionalGeneration"
    hf_configs: ClassVar = {
        "two deeper looks": lambda: Qwen3VLConfig(
            vision_config={
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "out_hidden_size": 64,
                "patch_size": 8,
                "deepstack_visual_indexes": [0, 1],
                "num_position_embeddings": 64,
            },
            text_config={
                **TEXT,
                "rope_parameters": {"rope_type": "default", "mrope_section": [3, 3, 2], "rope_theta": 1e4},
            },
            image_token_id=0,
            tie_word_embeddings=False,
        )
    }
