"""Images of prompts, as architectures read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from maxserve.core.interfaces.component import Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.request import Request
    from maxserve.core.interfaces.tokenizer import Tokenizer


__all__ = ["ImagesContext", "ImagesOfPrompt", "ImagesOfSteps", "ReadImage", "ReadsImages", "StepImagesContext"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepImagesContext(Context):
    """`device` is where the inputs of steps are."""

    device: torch.device


class ImagesOfPrompt(Protocol):
    """The images of one prompt. `end` is where the last one ends, `shift` how far behind the prompt the positions that
    rope applies lie from those of the tokens."""

    end: int
    shift: int

    def keyed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens from its first on as the cache knows them: those of images by what they show."""
        ...

    def uncut(self, start: int, count: int) -> int:
        """As many tokens from `start` as do not end amid tokens that see each other: fewer, or if need be more."""
        ...


class ImagesOfSteps(Protocol):
    """What steps compute of images, for an engine whose thread alone calls it."""

    def prompt(self, request: Request) -> ImagesOfPrompt:
        """The images of a request that has some."""
        ...

    def fill(
        self, inputs: StepInputs, images: Sequence[Any], adapters: Sequence[tuple[int, int]], shift: NDArray[np.int64]
    ) -> None:
        """Writes `images`, `bidirectional` and `mrope_positions` of a step in which some sequence computes an image or
        has a `shift`.

        Its B sequences have these `images` (what `prompt` gave, None for those without), `adapters` that change their
        features (generation and slot, 0 for none), and `shift` [B].
        """
