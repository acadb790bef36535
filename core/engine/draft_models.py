"""Draft models: whole models beside the target, found and loaded as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from maxserve.core.engine.grouped_attention import LaterLayers
from maxserve.core.interfaces.architecture import Model
from maxserve.core.interfaces.errors import ModelError, SettingsError
from maxserve.core.loading.architecture import read_spec, read_weight_map
from maxserve.core.loading.build import build_module, fill, prepare
from maxserve.core.loading.device import choose_device
from maxserve.core.loading.location import ModelFolder
from maxserve.core.loading.memory import weight_bytes
from maxserve.core.loading.resolve import resolve_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from maxserve.core.engine.target import Target
    from maxserve.core.interfaces.architecture import Architecture, ModelSpec
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.registry.entries import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDrafts:
    """A DraftModels. `found` are the files by what was asked for: a model is asked for more than once.

    What attends, and from which of its layers on the drafter's are, is known once the cache is there.
    """

    target: Target
    attention_of_target: Attention | None = None
    first_layer: int = 0
    found: dict[str, ModelFiles] = field(default_factory=dict)

    def folder(self, model: Checkpoint) -> str:
        return self._find(model).path

    def _find(self, model: Checkpoint) -> ModelFiles:
        key = repr(model)
        if key not in self.found:
            self._check_device(model)
            try:
                self.found[key] = resolve_model(model, self.target.host, progress=self.target.progress)
            except ModelError as error:
                raise ModelError(f"the draft model: {error}") from error
        return self.found[key]

    def spec(self, model: Checkpoint) -> ModelSpec:
        files = self._find(model)
        folder = ModelFolder(path=files.path, config=files.config, trusted=model.trust_remote_code)
        return read_spec(self.target.host, self._architecture(files), folder)

    def weight_bytes(self, model: Checkpoint) -> int:
        stored = self.target.computation.storage_dtype(self._find(model).encoding).itemsize
        return weight_bytes(self._module(model), stored)

    def load(self, model: Checkpoint) -> Model:
        target, files = self.target, self._find(model)
        architecture, module = self._architecture(files), self._module(model)
        weight_map = read_weight_map(
            target.host, architecture, self.spec(model), files.config, rope_type=model.rope_type
        )
        fill(target.host, module, files, architecture, target.computation, target.device, target.progress, weight_map)
        loaded = cast("Model", module)
        prepare(loaded, files)
        if model.use_subgraphs:
            target.chooser.compile_layers(module, self.attention(), target.compute)
        return loaded

    def attention(self) -> Attention:
        assert self.attention_of_target is not None, "asked for before the cache is there"
        return LaterLayers(self.attention_of_target, self.first_layer)

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
