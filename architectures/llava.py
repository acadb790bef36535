"""Llava: a CLIP, SigLIP or Pixtral tower, a projector of two layers, a Llama or Mistral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures import llama, mistral
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config
from maxserve.architectures.pixtral import RowsOfTokens
from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.plugins.vision.image_reader import TransformersImages


class Model(VisionLanguageModel, llama.Model):
    Whole = "LlavaModel"


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"llama": llama.config, "mistral": mistral.config})


class Images(TransformersImages):
    """One token for each patch of an image, and one more for a class token that is kept."""

    def __init__(self, context: ImagesContext) -> None:
        super().__init__(context)
        self.placeholder = self.token("image_token_index", "image_token_id", default="<image>")
        self._patch = int(self.vision.get("patch_size", 14))
        has_class = self.vision.get("model_type", "clip_vision_model").startswith("clip")
        cut = self.config.get("vision_feature_select_strategy", "default") == "default"
        self._more = int(has_class) - int(cut)

    def described(self, made: dict[str, Any]) -> ReadImage:
        height, width = made["pixel_values"].shape[-2:]
        count = (height // self._patch) * (width // self._patch) + self._more
        return ReadImage(
            text=self.placeholder * count, token=self.placeholder, tensors={"pixel_values": made["pixel_values"]}
        )


def images(context: ImagesContext) -> TransformersImages:
    """The reader of the tower that the config names."""
    pixtral = (context.model.get("vision_config") or {}).get("model_type") == "pixtral"
    return RowsOfTokens(context) if pixtral else Images(context)
