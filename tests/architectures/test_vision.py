"""Models that see, each against transformers'."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    LlamaConfig,
    LlavaConfig,
    MistralConfig,
    PixtralVisionConfig,
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
    hf_configs = {
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
    hf_configs = {
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
    hf_configs = {
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


