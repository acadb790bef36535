"""Images of prompts, as architectures read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from maxserve.core.interfaces.component import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

    from maxserve.core.interfaces.tokenizer import Tokenizer


__all__ = ["ImagesContext", "ReadImage", "ReadsImages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesContext(Context):
    """`path` is the model's folder, `model` the content of its config.json, with the overrides of its vision part.

    `overrides` are those (`--vision-config-overrides`): SettingsError names the ones that mean nothing.
    """

    path: str
    model: Mapping[str, Any]
    tokenizer: Tokenizer
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """An image as its model takes it: `text` stands for it in the prompt, and each `token` in that for one feature.

    `tensors` are numpy's arrays for the tower; the other fields are those of Image.
    """

    text: str
    token: str
    tensors: Mapping[str, NDArray[Any]]
    mrope_positions: NDArray[np.int64] | None = None
    advance: int | None = None
    bidirectional: bool = False


class ReadsImages(Protocol):
    """Makes of an image what one model takes. Used from several threads at once, in the API process.

    `placeholder` is what the chat template writes where an image stands.
    """

    placeholder: str

    def read(self, image: PILImage) -> ReadImage:
        """`image` is decoded and in RGB; RequestError when this model cannot take it."""
        ...
