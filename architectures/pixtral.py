"""Pixtral: images of any size, as rows of tokens; for models with this tower."""

from __future__ import annotations

from typing import Any

from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.plugins.vision.image_reader import TransformersImages


class RowsOfTokens(TransformersImages):
    """A token for each patch, or square of patches that are merged; rows end with a token of their own."""

    def __init__(self, context: ImagesContext) -> None:
        super().__init__(context)
        self.placeholder = self.token("image_token_index", "image_token_id", default="[IMG]")
        self._break = str(self.options.get("image_break_token", "[IMG_BREAK]"))
        self._end = str(self.options.get("image_end_token", "[IMG_END]"))
        merge = int(self.config.get("spatial_merge_size", 1))
        self._patch = int(self.vision.get("patch_size", 16)) * merge
        self.processor.patch_size = {"height": self._patch, "width": self._patch}

    def described(self, made: dict[str, Any]) -> ReadImage:
        height, width = (int(size) // self._patch for size in made["image_sizes"][0])
        rows = (self.placeholder * width + self._break) * height
        return ReadImage(
            text=rows.removesuffix(self._break) + self._end,
            token=self.placeholder,
            tensors={"pixel_values": made["pixel_values"], "image_sizes": made["image_sizes"]},
        )
