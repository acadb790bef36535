"""Gemma 3 with a SigLIP tower: the tokens of an image see each other, in the layers with windows as far as these go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from maxserve.architectures import gemma3
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config
from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.loading import read_optional_object
from maxserve.plugins.vision.image_reader import TransformersImages

_WHOLE = "Here is the original image {} and here are some crops to help you see better "


class Model(VisionLanguageModel, gemma3.Model):
    Whole = "Gemma3Model"


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return replace(vision_config(raw, {"gemma3_text": gemma3.config}), bidirectional=True)


class Images(TransformersImages):
    """So many tokens between a token where the image begins and one where it ends, and the same for each crop."""

    def __init__(self, context: ImagesContext) -> None:
        super().__init__(context)
        names = read_optional_object(Path(context.path) / "tokenizer_config.json")
        self.placeholder = str(names.get("boi_token") or self.token("boi_token_index", default="<start_of_image>"))
        end = str(names.get("eoi_token") or self.token("eoi_token_index", default="<end_of_image>"))
        self._token = self.token("image_token_index", "image_token_id", default="<image_soft_token>")
        count = int(self.config.get("mm_tokens_per_image", 256))
        self._shown = f"\n\n{self.placeholder}{self._token * count}{end}\n\n"

    def described(self, made: dict[str, Any]) -> ReadImage:
        crops = len(made["pixel_values"]) - 1
        text = self._shown if not crops else _WHOLE.format(self._shown) + " ".join([self._shown] * crops)
        return ReadImage(
            text=text, token=self._token, tensors={"pixel_values": made["pixel_values"]}, bidirectional=True
        )
