"""Qwen 2.5 VL: a tower for images of any size, a Qwen 2 whose positions have three axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maxserve.architectures import qwen2
from maxserve.architectures.layers.mrope import MultimodalRotary, in_sections
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config
from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.plugins.vision.image_reader import TransformersImages


class Model(VisionLanguageModel, qwen2.Model):
    Whole = "Qwen2_5_VLModel"

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.rotary = MultimodalRotary(config.text, in_sections(sections(config)))


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"qwen2_5_vl_text": qwen2.config})


def sections(config: VisionConfig) -> list[int]:
    """How many frequencies each axis has."""
    return list(config.whole.get_text_config().rope_parameters["mrope_section"])


class Images(TransformersImages):
    """A token for each square of patches; rows and columns are positions on axes of their own."""

    def __init__(self, context: ImagesContext) -> None:
        super().__init__(context)
        self.placeholder = self.token("image_token_id", default="<|image_pad|>")
        self._merge = int(self.vision.get("spatial_merge_size", 2))

    def adjust(self, key: str, value: Any) -> bool:
        side = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}.get(key)
        if side is None:
            return super().adjust(key, value)
        self.processor.size = {**dict(self.processor.size), side: value}
        return True

    def described(self, made: dict[str, Any]) -> ReadImage:
        grid = made["image_grid_thw"]
        times, rows, columns = (int(size) for size in grid[0])
        rows, columns = rows // self._merge, columns // self._merge
        positions = np.indices((times, rows, columns)).reshape(3, -1)
        return ReadImage(
            text=self.placeholder * positions.shape[1],
            token=self.placeholder,
            tensors={"pixel_values": made["pixel_values"], "image_grid_thw": grid},
            mrope_positions=positions,
            advance=max(rows, columns),
        )
