"""Draft models: whole models beside the target, and heads on top of it, found and loaded as it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from maxserve.core.engine.grouped_attention import LaterLayers
from maxserve.core.interfaces.architecture import Model
from maxserve.core.interfaces.errors import ModelError, PluginError, SettingsError
from maxserve.core.interfaces.speculator import DraftCheckpoint, DraftHeadContext
from maxserve.core.loading.architecture import read_spec, read_weight_map, rotary_changes
from maxserve.core.loading.build import bound_positions, build_module, fill, fill_from, on_meta, prepare
from maxserve.core.loading.device import choose_device
from maxserve.core.loading.location import ModelFolder
from maxserve.core.loading.model_loader import held_bytes
from maxserve.core.loading.resolve import resolve_checkpoint, resolve_model
from maxserve.core.loading.weight_files import open_weights
from maxserve.core.registry.entries import find_architecture

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from maxserve.core.engine.target import Target
    from maxserve.core.interfaces.architecture import Architecture, ModelSpec, WeightMap
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.interfaces.speculator import DraftHead
    from maxserve.core.interfaces.tokenizer import Tokenizer
    from maxserve.core.interfaces.weight_format import WeightFile
    from maxserve.core.registry.entries import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDrafts:
    """A DraftModels. `own` are the files of the target, `found` others by what was asked for: more than once, mostly.

    What attends, from which of its layers on the drafter's are, and how many positions texts have at most, is known
    once the cache is there.
    """

    target: Target
    own: ModelFiles
    attention_of_target: Attention | None = None
    first_layer: int = 0
    positions: int | None = None
    found: dict[str, ModelFiles] = field(default_factory=dict)

    def folder(self, model: Checkpoint) -> str:
        return self._find(model).path

    def _find(self, model: Checkpoint) -> ModelFiles:
        return self._once("model", model, resolve_model)

    def _files(self, model: Checkpoint | None) -> ModelFiles:
        """The same whatever the class of the model; None: the target."""
        return self.own if model is None else self._once("checkpoint", model, resolve_checkpoint)

    def _once(self, what: str, model: Checkpoint, resolve: Callable[..., ModelFiles]) -> ModelFiles:
        key = what + repr(model)
        if key not in self.found:
            self._check_device(model)
            try:
                self.found[key] = resolve(model, self.target.host, progress=self.target.progress)
            except ModelError as error:
                raise ModelError(f"the draft model: {error}") from error
        return self.found[key]

    def spec(self, model: Checkpoint) -> ModelSpec:
        files = self._find(model)
        folder = ModelFolder(path=files.path, config=files.config, trusted=model.trust_remote_code)
        return read_spec(self.target.host, self._architecture(files), folder)

    def tokenizer(self, folder: str) -> Tokenizer:
        return self.target.tokenizer_files(folder).load()

    def weight_bytes(self, model: Checkpoint) -> int:
        files, target = self._find(model), self.target
        return held_bytes(target.host, self._module(model), files, target.computation, self._weight_map(model))

    def _weight_map(self, model: Checkpoint) -> WeightMap:
        files = self._find(model)
        architecture, spec = self._architecture(files), self.spec(model)
        return read_weight_map(self.target.host, architecture, spec, files.config, rope_type=model.rope_type)

    def load(self, model: Checkpoint) -> Model:
        target, files = self.target, self._find(model)
        architecture, module, weights = self._architecture(files), self._module(model), self._weight_map(model)
        fill(target.host, module, files, architecture, target.computation, target.device, target.progress, weights)
        loaded = cast("Model", module)
        prepare(loaded, files, self.positions)
        if model.use_subgraphs:
            target.chooser.compile_layers(module, self.attention(), target.compute)
        return loaded

    def attention(self) -> Attention:
        assert self.attention_of_target is not None, "asked for before the cache is there"
        return LaterLayers(self.attention_of_target, self.first_layer)

    def behind(self, layers: int) -> LoadedDrafts:
        return replace(self, first_layer=self.first_layer + layers)

    def checkpoint(self, model: Checkpoint | None) -> DraftCheckpoint:
        files = self._files(model)
        shapes = {name: info.shape for file in self._opened(files) for name, info in file.tensors.items()}
        found = self._served(model)
        return DraftCheckpoint(
            ref=files.ref,
            path=files.path,
            config=files.config,
            tensors=shapes,
            architecture=None if found is None else found.name,
        )

    def _served(self, model: Checkpoint | None) -> Entry[Architecture] | None:
        """The architecture that is named after the class of a checkpoint, if there is one."""
        files, registry = self._files(model), self.target.host.architectures
        if model is None:
            return registry.get(files.architecture)
        classes = files.config.get("architectures")
        try:
            return find_architecture(registry, [str(name) for name in classes or ()])
        except PluginError:
            return None

    def head(self, model: Checkpoint | None, target: ModelSpec) -> DraftHead | None:
        entry = self._served(model)
        if entry is None or entry.component.draft_head is None:
            return None
        make = self.target.host.load(entry, entry.component.draft_head)
        context = DraftHeadContext(checkpoint=self.checkpoint(model), target=target)
        return self.build(lambda: cast("DraftHead", make(context)))

    def build(self, make: Callable[[], DraftHead]) -> DraftHead:
        return on_meta(make, self.target.compute)

    def head_bytes(self, model: Checkpoint | None, head: DraftHead) -> int:
        files, target = self._files(model), self.target
        return held_bytes(target.host, cast("nn.Module", head), files, target.computation, head.weights)

    def fill(self, model: Checkpoint | None, head: DraftHead) -> None:
        target, files, module = self.target, self._files(model), cast("nn.Module", head)
        settings = model or target.settings.model
        try:
            changes = rotary_changes(head, settings.rope_type, "of the draft head")
            weights = replace(head.weights, changes=(*head.weights.changes, *changes))
            fill_from(target.host, module, files, target.computation, target.device, target.progress, weights)
        except ModelError as error:
            raise ModelError(f"the draft head of {files.ref}: {error}") from error
        bound_positions(module, self.positions)
        if settings.use_subgraphs:
            target.chooser.compile_layers(module, self.attention(), target.compute)

    def tensor(self, model: Checkpoint | None, name: str) -> torch.Tensor:
        for file in self._opened(self._files(model)):
            if name in file.tensors:
                with file.open() as read:
                    return read(name).clone()
        raise ModelError(f"{self._files(model).ref} has no tensor {name}")

    def _opened(self, files: ModelFiles) -> list[WeightFile]:
        return open_weights(self.target.host, files.weights, files.config)

    def _check_device(self, model: Checkpoint) -> None:
        here = self.target.device
        if model.devices != "default" and _device(model.devices) != here:
            raise SettingsError(
                f"--draft-devices {model.devices}: the draft model keeps its cache with the target's, on {here}; leave "
                "the option out"
            )

    def _architecture(self, files: ModelFiles) -> Entry[Architecture]:
        return self.target.host.architectures.get(files.architecture)

    def _module(self, model: Checkpoint) -> nn.Module:
        target, architecture = self.target, self._architecture(self._find(model))
        spec = self.spec(model)
        return build_module(target.host, architecture, spec, target.compute, Model, "prepare, forward and logits")


def _device(devices: str) -> torch.device | None:
    try:
        return choose_device(devices)
    except SettingsError:  # it is not there, and so not the target's
        return None
