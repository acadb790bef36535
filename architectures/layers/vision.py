"""The vision part of a vision-language model.

The tower and the projector are transformers' own modules; their features stand for an image's tokens among
the embeddings.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from maxserve.architectures.layers.decoder import DecoderModel
from maxserve.architectures.layers.vision_config import FEATURES_KEPT, VisionConfig
from maxserve.interfaces.inputs import ImageSpan
from maxserve.interfaces.request import Image
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import TowerRows


class FeatureCache:
    """Features of images seen lately, so that one that is cut by a step, or comes again, is computed once."""

    def __init__(self, limit: int = FEATURES_KEPT) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.size = 0  # bytes

    def get(self, key: Hashable) -> Tensor | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, features: Tensor) -> None:
        """Keeps them, and as many of the others as there is room for; those that are too large alone stay too."""
        self._kept[key] = features
        self.size += features.nbytes
        while self.size > self._limit and len(self._kept) > 1:
            self.size -= self._kept.popitem(last=False)[1].nbytes


class VisionLanguageModel(DecoderModel):
    """A decoder beside a tower: to be mixed into a language model, ahead of it.

    A subclass names the class of transformers that holds both (`Whole`).

    The tower is an instance of that class without its language model; its parameters are found under `tower.`.
    """

    Whole: ClassVar[str]
    Language: ClassVar[str] = "language_model"  # what `Whole` calls its text part

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config.text)  # the language model's
        self.tower = _tower(config, self.Whole, self.Language)
        self.tower_rows = TowerRows()
        self.seen = FeatureCache()

    def prepare(self) -> None:
        """Computes what no checkpoint holds, of both parts."""
        super().prepare()
        _fill_buffers(self.tower, self._like.device)

    @property
    def _like(self) -> Tensor:
        """Of the type and on the device that the tower computes in."""
        parameter: Tensor = next(self.tower.parameters())
        return parameter

    def features(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What an image's tokens are given, [features, dim], from what its processor made of it."""
        found = self.tower.get_image_features(**tensors, return_dict=True).pooler_output
        return torch.cat(tuple(found)) if isinstance(found, list | tuple) else found.flatten(0, -2)

    def embed(self, step: StepContext) -> Tensor:
        x = super().embed(step)
        for seen in step.inputs.images:
            features = self.image_features(seen).narrow(0, seen.first, len(seen.rows))
            x[seen.rows] = features[:, : x.shape[1]].to(x.dtype)
        return x

    def image_features(self, seen: ImageSpan) -> Tensor:
        """The features of an image with the adapter that changes them, if there is one, computed now or lately."""
        image, key = seen.image, (seen.image.digest, seen.adapter)
        found = self.seen.get(key)
        if found is None:
            self.tower_rows.slot = seen.adapter_slot
            try:
                found = self.features(self._tensors(image))
            finally:
                self.tower_rows.slot = 0
            self.seen.put(key, found)
        return found

    def _tensors(self, image: Image) -> dict[str, Tensor]:
        device, dtype = self._like.device, self._like.dtype
        made = {name: torch.from_numpy(numbers.array().copy()).to(device) for name, numbers in image.tensors.items()}
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in made.items()}


def _tower(config: VisionConfig, whole: str, language: str) -> Any:
    import transformers

    small = copy.deepcopy(config.whole)
    text = small.get_text_config()
    text.num_hidden_layers = 0  # never run, and gone in a moment
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = []
    built = getattr(transformers, whole)(small)
    delattr(built, language)
    return built.eval()


def _fill_buffers(tower: Any, device: torch.device) -> None:
    """Computes the tables of transformers' modules, which are built without memory behind them.

    Their own way to do so is to initialise all that is not marked as being so already.
    """
    for module in tower.modules():
        for name, parameter in module.named_parameters(recurse=False):
            getattr(module, name)._is_hf_initialized = parameter is not None
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty_like(buffer, device=device), persistent=False)
    tower.initialize_weights()
