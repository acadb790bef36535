"""Draft models: whole models beside the target, and heads on top of it, found and loaded as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from maxserve.interfaces.architecture import Architecture, Model
from maxserve.interfaces.errors import ModelError, PluginError, SettingsError
from maxserve.interfaces.speculator import DraftCheckpoint, DraftHeadContext
from maxserve.loading import HasParts, choose_device, on_meta
from maxserve.registry import find_architecture

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from maxserve.interfaces.architecture import ModelSpec
    from maxserve.interfaces.attention import Attention, Index
    from maxserve.interfaces.component import Declaration
    from maxserve.interfaces.engine import LoadsModels
    from maxserve.interfaces.inputs import StepInputs
    from maxserve.interfaces.model_source import Checkpoint
    from maxserve.interfaces.speculator import DraftHead, DraftModelsContext
    from maxserve.interfaces.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedDrafts:
    """A DraftModels. Where the drafter's layers are is known once the cache is there."""

    context: DraftModelsContext

    def folder(self, model: Checkpoint) -> str:
        return self._loader(model).files.path

    def _loader(self, model: Checkpoint | None, *, served: bool = True) -> LoadsModels:
        """That of a checkpoint, which need not be `served`; None: the target's."""
        target = self.context.loader
        if model is None:
            return target
        _check_device(model, target.device)
        try:
            return target.beside(model, served=served)
        except ModelError as error:
            raise ModelError(f"the draft model: {error}") from error

    def spec(self, model: Checkpoint) -> ModelSpec:
        return self._loader(model).spec

    def tokenizer(self, folder: str) -> Tokenizer:
        return self.context.loader.tokenizer(folder)

    def weight_bytes(self, model: Checkpoint) -> int:
        return self._loader(model).weight_bytes(self._module(model))

    def _module(self, model: Checkpoint) -> nn.Module:
        return self._loader(model).build(Model, "prepare, forward and logits")

    def load(self, model: Checkpoint) -> Model:
        loader, module = self._loader(model), self._module(model)
        loader.fill(module, self.context.max_length)
        loader.compile_layers(module, self.attention())
        return cast("Model", module)

    def attention(self) -> Attention:
        assert self.context.attention is not None, "asked for before the cache is there"
        return LaterLayers(self.context.attention, self.context.first_layer)

    def behind(self, layers: int) -> LoadedDrafts:
        return LoadedDrafts(replace(self.context, first_layer=self.context.first_layer + layers))

    def checkpoint(self, model: Checkpoint | None) -> DraftCheckpoint:
        loader, served = self._loader(model, served=False), self._served(model)
        return DraftCheckpoint(
            ref=loader.files.ref,
            path=loader.files.path,
            config=loader.files.config,
            tensors={name: info.shape for file in loader.weight_files() for name, info in file.tensors.items()},
            architecture=None if served is None else served.name,
        )

    def _served(self, model: Checkpoint | None) -> Declaration[Architecture] | None:
        """The architecture that is named after the class of a checkpoint, if there is one."""
        files, known = self._loader(model, served=False).files, self.context.components.of(Architecture)
        if model is None:
            return known.get(files.architecture)
        classes = files.config.get("architectures")
        try:
            return find_architecture(known, [str(name) for name in classes or ()])
        except PluginError:
            return None

    def head(self, model: Checkpoint | None, target: ModelSpec) -> DraftHead | None:
        entry = self._served(model)
        if entry is None or entry.component.draft_head is None:
            return None
        make = self.context.components.load(entry, entry.component.draft_head)
        context = DraftHeadContext(checkpoint=self.checkpoint(model), target=target)
        return self.build(lambda: cast("DraftHead", make(context)))

    def build(self, make: Callable[[], DraftHead]) -> DraftHead:
        return on_meta(make, self.context.loader.compute)

    def head_bytes(self, model: Checkpoint | None, head: DraftHead) -> int:
        return self._loader(model, served=False).held_bytes(cast("nn.Module", head), head.weights)

    def fill(self, model: Checkpoint | None, head: DraftHead) -> None:
        loader, module = self._loader(model, served=False), cast("nn.Module", head)
        try:
            loader.fill_module(module, head.weights, self.context.max_length)
        except ModelError as error:
            raise ModelError(f"the draft head of {loader.files.ref}: {error}") from error
        loader.compile_layers(module, self.attention())

    def tensor(self, model: Checkpoint | None, name: str) -> torch.Tensor:
        loader = self._loader(model, served=False)
        for file in loader.weight_files():
            if name in file.tensors:
                with file.open() as read:
                    return read(name).clone()
        raise ModelError(f"{loader.files.ref} has no tensor {name}")


class LaterLayers:
    """An Attention whose layer 0 is the layer `first` of another one."""

    def __init__(self, attention: Attention, first: int) -> None:
        self._attention = attention
        self._first = first

    def begin(self, inputs: StepInputs) -> None:
        self._attention.begin(inputs)

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        inputs: StepInputs,
        sinks: torch.Tensor | None = None,
        index: Index | None = None,
    ) -> torch.Tensor:
        return self._attention.attend(self._first + layer, q, k, v, inputs, sinks, index)

    def of(self, layer: int) -> tuple[Attention, int]:
        """What attends for a layer, and which of its own that is: for who compiles layers."""
        layer += self._first
        return self._attention.of(layer) if isinstance(self._attention, HasParts) else (self._attention, layer)


def _check_device(model: Checkpoint, here: torch.device) -> None:
    # Several are those of the target, each replica of which drafts on its own: check_draft sees to that.
    if model.devices != "default" and "," not in model.devices and _device(model.devices) != here:
        raise SettingsError(
            f"--draft-devices {model.devices}: the draft model keeps its cache with the target's, on {here}; leave "
            "the option out"
        )


def _device(devices: str) -> torch.device | None:
    try:
        return choose_device(devices)
    except SettingsError:  # it is not there, and so not the target's
        return None
