"""Vision-language models, each against transformers'."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
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
    Qwen3VLMoeConfig,
    SiglipVisionConfig,
)

from maxserve.testing import VisionChecks, VisionQuirkChecks
from maxserve.testing.vision import VisionCases

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


class _Llava(VisionCases):
    architecture = "LlavaForConditionalGeneration"
    tokens = ("<image>",)

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})


class TestLlava(_Llava, VisionChecks):
    hf_configs: ClassVar = {
        "default": lambda: LlavaConfig(
            vision_config=CLIPVisionConfig(**TOWER), text_config=LlamaConfig(**TEXT), image_token_index=0
        )
    }


class TestLlavaQuirks(_Llava, VisionQuirkChecks):
    hf_configs: ClassVar = {
        "full, several layers": lambda: LlavaConfig(
            vision_config=CLIPVisionConfig(**TOWER),
            text_config=LlamaConfig(**TEXT),
            image_token_index=0,
            vision_feature_select_strategy="full",
            vision_feature_layer=[-1, 1],
        )
    }


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


@pytest.mark.skipif(
    getattr(transformers.Idefics3ImageProcessorPil, "is_dummy", False), reason="needs torchvision in this transformers"
)
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


class _InternVL(VisionCases):
    architecture = "InternVLForConditionalGeneration"
    tokens = ("<IMG_CONTEXT>", "<img>", "</img>")

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        return GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4)


def internvl(text: Any, **tower: Any) -> InternVLConfig:
    """A config around a language model of that class."""
    return InternVLConfig(
        vision_config=InternVLVisionConfig(**{**TOWER, **tower}),
        text_config=text(**TEXT),
        image_token_id=0,
        tie_word_embeddings=False,
    )


OTHER_TEXTS: dict[str, Any] = {"qwen 3": lambda: internvl(Qwen3Config), "llama": lambda: internvl(LlamaConfig)}


class TestInternVL(_InternVL, VisionChecks):
    hf_configs: ClassVar = {"qwen 2": lambda: internvl(Qwen2Config)}


class TestInternVLQuirks(_InternVL, VisionQuirkChecks):
    hf_configs: ClassVar = OTHER_TEXTS


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


class _QwenVL(VisionCases):
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


class TestQwen25VL(_QwenVL, VisionChecks):
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


DEEP: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "out_hidden_size": 64,
    "patch_size": 8,
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 64,
}
IN_TURNS = {"rope_type": "default", "mrope_section": [3, 3, 2], "rope_theta": 1e4}


class TestQwen3VL(_QwenVL, VisionChecks):
    architecture = "Qwen3VLForConditionalGeneration"
    hf_configs: ClassVar = {
        "two deeper looks": lambda: Qwen3VLConfig(
            vision_config={**DEEP},
            text_config={
                **TEXT,
                "rope_parameters": {**IN_TURNS},
            },
            image_token_id=0,
            tie_word_embeddings=False,
        )
    }


class _Qwen3VLMoe(_QwenVL):
    architecture = "Qwen3VLMoeForConditionalGeneration"
    hf_configs: ClassVar = {
        "a dense layer, two deeper looks": lambda: Qwen3VLMoeConfig(
            vision_config={**DEEP},
            text_config={
                **TEXT,
                "rope_parameters": {**IN_TURNS},
                "num_experts": 6,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 24,
                "mlp_only_layers": [1],
            },
            image_token_id=0,
            tie_word_embeddings=False,
        )
    }


class TestQwen3VLMoe(_Qwen3VLMoe, VisionChecks):
    pass


class TestQwen3VLMoeOfItsAuthors(_Qwen3VLMoe, VisionQuirkChecks):
    """Their checkpoints have the experts' matrices the other way round."""

    @classmethod
    def write(cls, folder: Path, hf_config: Any, model: nn.Module) -> None:
        super().write(folder, hf_config, model)
        tensors = load_file(folder / "model.safetensors")
        transposed = {name: t.mT.contiguous() if ".experts." in name else t for name, t in tensors.items()}
        assert any(".experts." in name for name in tensors)
        save_file(transposed, folder / "model.safetensors")


class _InternVLChat(_InternVL):
    """transformers' InternVL, written as its authors write theirs."""

    architecture = "InternVLChatModel"
    MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]

    @classmethod
    def write(cls, folder: Path, hf_config: Any, model: nn.Module) -> None:
        super().write(folder, hf_config, model)
        save_file(chat_tensors(load_file(folder / "model.safetensors")), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(chat_config(hf_config)))
        (folder / "processor_config.json").unlink(missing_ok=True)
        numbers = {"image_mean": cls.MEAN, "image_std": cls.STD}
        (folder / "preprocessor_config.json").write_text(json.dumps(numbers))

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        made = super().processor(hf_config)
        made.image_mean, made.image_std = cls.MEAN, cls.STD
        return made


class TestInternVLChat(_InternVLChat, VisionChecks):
    hf_configs: ClassVar = {"qwen 2": lambda: internvl(Qwen2Config)}


class TestInternVLChatQuirks(_InternVLChat, VisionQuirkChecks):
    hf_configs: ClassVar = {
        **OTHER_TEXTS,
        "tiles larger than the tower's": lambda: internvl(Qwen2Config, image_size=28),
        "norms of queries and keys, tied": lambda: InternVLConfig(
            vision_config=InternVLVisionConfig(**TOWER, use_qk_norm=True, attention_bias=True, norm_type="rms_norm"),
            text_config=Qwen2Config(**TEXT, tie_word_embeddings=True),
            image_token_id=0,
            vision_feature_layer=-2,
        ),
    }


def chat_config(config: InternVLConfig) -> dict[str, Any]:
    """What the authors' config.json would say."""
    tower = config.vision_config
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "ps_version": "v2",
        "select_layer": config.vision_feature_layer,
        "downsample_ratio": config.downsample_ratio,
        "force_image_size": 56,
        "max_dynamic_patch": 4,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "llm_config": {**config.text_config.to_dict(), "architectures": ["x"], "torch_dtype": "bfloat16"},
        "vision_config": {
            **TOWER,
            "image_size": tower.image_size[0],
            "model_type": "intern_vit_6b",
            "qkv_bias": tower.attention_bias,
            "qk_normalization": tower.use_qk_norm,
            "norm_type": tower.norm_type,
        },
    }


CHAT_NAMES = (
    (r"^model\.", ""),
    (r"^language_model\.(?!model\.|lm_head)", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^multi_modal_projector\.linear_2\.", "mlp1.3."),
    (r"^vision_tower\.encoder\.layer\.", "vision_model.encoder.layers."),
    (r"^vision_tower\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^vision_tower\.embeddings\.position_embeddings$", "vision_model.embeddings.position_embedding"),
    (r"^vision_tower\.embeddings\.patch_embeddings\.projection\.", "vision_model.embeddings.patch_embedding."),
    (r"(?<=\d)\.attention\.projection_layer\.", ".attn.proj."),
    (r"(?<=\d)\.attention\.", ".attn."),
    (r"\.lambda_([12])$", r".ls\1"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def chat_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of transformers' checkpoint under the authors' names, with one projection for all three."""
    made: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, theirs in CHAT_NAMES:
            name = re.sub(pattern, theirs, name)
        made[name] = tensor
    for name in [name for name in made if ".attn.q_proj." in name]:
        parts = [made.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        made[name.replace("q_proj", "qkv")] = torch.cat(parts)
    return made
