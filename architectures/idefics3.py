"""Idefics 3: a SigLIP tower over an image and its tiles, pixels shuffled together, a Llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.architectures import llama
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config
from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.plugins.vision.image_reader import TransformersImages

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class Model(VisionLanguageModel, llama.Model):
    Whole = "Idefics3Model"
    Language = "text_model"


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"llama": llama.config})


class Images(TransformersImages):
    """The image and, if it is large, its tiles by row and column before it; each is so many tokens."""

    def __init__(self, context: ImagesContext) -> None:
        super().__init__(context)
        self.placeholder = self.token("image_token_id", default="<image>")
        side = int(self.vision.get("image_size", 224)) // int(self.vision.get("patch_size", 32))
        count = side**2 // int(self.config.get("scale_factor", 2)) ** 2
        self._shown = self.placeholder * count

    def made(self, image: PILImage) -> dict[str, Any]:
        return dict(self.processor(images=[image], return_row_col_info=True, return_tensors="np"))

    def described(self, made: dict[str, Any]) -> ReadImage:
        rows, columns = (int(made[name][0][0]) for name in ("rows", "cols"))
        return ReadImage(
            text=self._text(rows, columns),
            token=self.placeholder,
            tensors={name: made[name] for name in ("pixel_values", "pixel_attention_mask")},
        )

    def _text(self, rows: int, columns: int) -> str:
        around = "<fake_token_around_image>"
        whole = f"{around}<global-img>{self._shown}{around}"
        if not rows and not columns:
            return whole
        tiles = "".join(
            "".join(f"{around}<row_{i + 1}_col_{j + 1}>{self._shown}" for j in range(columns)) + "\n"
            for i in range(rows)
        )
        return f"{tiles}\n{whole}"
