"""InternVL under its authors' own name: the same models as InternVL's, whose files say everything in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from maxserve.architectures import internvl
from maxserve.architectures.layers.vision_config import VisionConfig
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.images import ImagesContext
from maxserve.loading import read_optional_object
from maxserve.plugins.api.common.chat_template import find_templates

# What the authors' InternVisionConfig has where config.json says nothing, and what transformers calls that.
_TOWER_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 3200,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "qkv_bias": False,
    "qk_normalization": True,
    "initializer_factor": 0.1,
}
_TOWER_KEYS = {
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
    "initializer_factor": "layer_scale_init_value",
}
_DEFAULTS: Mapping[str, Any] = {"select_layer": -1, "downsample_ratio": 0.5, "ps_version": "v1"}
# Settings of the authors' program, and what they say of its classes.
_OTHER_THINGS = frozenset({"architectures", "auto_map", "attn_implementation", "torch_dtype", "_name_or_path"})
_OTHER_PLACEHOLDER = "<image>"  # in templates made for the authors' program, which puts the tokens in its place
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def config(raw: Mapping[str, Any]) -> VisionConfig:
    """The config in `raw`, the content of the authors' config.json."""
    return internvl.config(translated(raw))


def translated(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What `raw` says, in the words of transformers' InternVLConfig."""
    values = {**_DEFAULTS, **raw}
    text = {key: value for key, value in (values.get("llm_config") or {}).items() if key not in _OTHER_THINGS}
    if "model_type" not in text:
        raise ModelError(
            'config.json: its "llm_config" names no "model_type"; that of a Qwen 2, Qwen 3 or Llama is needed'
        )
    if values["ps_version"] != "v2":
        raise ModelError(
            f'config.json: "ps_version" {values["ps_version"]!r} mixes pixels as InternVL 1 did, which is not served; '
            "versions from 2 on have v2"
        )
    return {
        "model_type": "internvl",
        "text_config": text,
        "vision_config": _tower(values.get("vision_config") or {}),
        "downsample_ratio": values["downsample_ratio"],
        "vision_feature_layer": values["select_layer"],
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
    }


def _tower(values: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: values.get(key, default) for key, default in _TOWER_DEFAULTS.items()}
    return {_TOWER_KEYS.get(key, key): value for key, value in known.items()}


class Images(internvl.Images):
    """Tiles as InternVL's; how they are cut stands in config.json, and their mean and deviation beside it."""

    def __init__(self, context: ImagesContext) -> None:
        raw = context.model
        self._tiles = bool(raw.get("dynamic_image_size", True))
        self._thumbnail = bool(raw.get("use_thumbnail", True))
        values = translated(raw)
        # Tiles may be of another size than the tower was made for, which then stretches its positions.
        side = raw.get("force_image_size") or values["vision_config"]["image_size"]
        tower = {**values["vision_config"], "image_size": side}
        super().__init__(replace(context, model={**raw, **values, "vision_config": tower}))
        templates = "".join(find_templates(context.path, None)[0].values())
        if _OTHER_PLACEHOLDER in templates and self.placeholder not in templates:
            self.placeholder = _OTHER_PLACEHOLDER

    def made(self, image: Any) -> dict[str, Any]:
        made = dict(self.processor(images=[image], crop_to_patches=self._tiles, return_tensors="np"))
        tiles = made["pixel_values"]
        return made if self._thumbnail or len(tiles) == 1 else {**made, "pixel_values": tiles[:-1]}

    def build(self, context: ImagesContext) -> Any:
        """transformers' processor with the sizes of config.json."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        raw = context.model
        side = raw["vision_config"]["image_size"]
        numbers = read_optional_object(Path(context.path) / "preprocessor_config.json")
        return GotOcr2ImageProcessorPil(
            size={"height": side, "width": side},
            min_patches=raw.get("min_dynamic_patch", 1),
            max_patches=raw.get("max_dynamic_patch", 12),
            image_mean=list(numbers.get("image_mean", _MEAN)),
            image_std=list(numbers.get("image_std", _STD)),
        )
