"""InternVL: a tower of its own over an image's tiles, pixels shuffled together, a Qwen 2, Qwen 3 or Llama."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from maxserve.architectures import llama, qwen2, qwen3
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config
from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.loading import read_optional_object
from maxserve.plugins.vision.image_reader import TransformersImages


class _Qwen2(VisionLanguageModel, qwen2.Model):
    Whole = "InternVLModel"


class _Qwen3(VisionLanguageModel, qwen3.Model):
    Whole = "InternVLModel"


class _Llama(VisionLanguageModel, llama.Model):
    Whole = "InternVLModel"


_MODELS: Mapping[str, type[nn.Module]] = {"qwen2": _Qwen2, "qwen3": _Qwen3, "llama": _Llama}


def model(config: VisionConfig) -> nn.Module:
    """The tower beside the text model that the config names."""
    return _MODELS[config.whole.get_text_config().model_type](config)


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"qwen2": qwen2.config, "qwen3": qwen3.config, "llama": llama.config})


class Images(TransformersImages):
    """An image in tiles and, if there are several, once more as a whole; each tile is so many tokens."""

    renamed: ClassVar = {"max_dynamic_patch": "max_patches", "min_dynamic_patch": "min_patches"}

    def __init__(self, context: ImagesContext) -> None:
        super().__init__(context)
        self.placeholder = self.token("image_token_id", default="<IMG_CONTEXT>")
        self._feature = self.placeholder
        names = read_optional_object(Path(context.path) / "tokenizer_config.json")
        self._start = str(names.get("start_image_token", "<img>"))
        self._end = str(names.get("end_image_token", "</img>"))
        (height, width), patch = _pair(self.vision.get("image_size", 448)), _pair(self.vision.get("patch_size", 14))
        ratio = float(self.config.get("downsample_ratio", 0.5))
        self._tokens = int((height // patch[0]) * ratio) * int((width // patch[1]) * ratio)

    def made(self, image: Any) -> dict[str, Any]:
        return dict(self.processor(images=[image], crop_to_patches=True, return_tensors="np"))

    def described(self, made: dict[str, Any]) -> ReadImage:
        pixels = made["pixel_values"]
        features = self._feature * (self._tokens * len(pixels))
        return ReadImage(
            text=f"{self._start}{features}{self._end}", token=self._feature, tensors={"pixel_values": pixels}
        )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
