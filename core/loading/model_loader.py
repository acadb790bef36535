"""Engines and what they are built with: the model's config, module and weights, and the operator's options."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from maxserve.core.config.catalog import catalog
from maxserve.core.interfaces.engine import EngineContext, EngineOptions
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.linear import SupportsCodes
from maxserve.core.interfaces.quantization import HasCodes, NamesEncoding
from maxserve.core.loading.architecture import read_spec, read_weight_map
from maxserve.core.loading.build import build_module, fill, prepare, rounding_of
from maxserve.core.loading.device import choose_device
from maxserve.core.loading.kernels import Chooser, Computation, chosen_names
from maxserve.core.loading.location import ModelFolder
from maxserve.core.loading.memory import weight_bytes
from maxserve.core.loading.quantization import codes_size, quantization_of
from maxserve.core.loading.tasks import GENERATION, OwnContext, engine_for
from maxserve.core.loading.weight_files import open_files, open_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from maxserve.core.config import Settings
    from maxserve.core.engine.adapters import Adapters, BuiltAdapters
    from maxserve.core.interfaces.architecture import Architecture, ModelSpec, WeightMap
    from maxserve.core.interfaces.engine import Engine, ModelFiles, ServedEngine
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.engine")


def build_served(settings: Settings, host: Host, files: ModelFiles, progress: Progress) -> ServedEngine:
    """The engine for the task of the model, ready to serve."""
    entry = engine_for(files.task, host)
    own = entry.component is GENERATION
    if not own and not entry.component.adapters:
        _validate_no_adapters(settings, entry, host)
    context = OwnContext(settings, host, files, progress) if own else engine_context(settings, host, files, progress)
    engine: ServedEngine = host.build(entry, context)
    return engine


def _validate_no_adapters(settings: Settings, entry: Entry[Engine], host: Host) -> None:
    """SettingsError where the operator asks for adapters and the engine serves none."""
    chosen = [option for option in catalog(host.plugin_sections()) if option.path in settings.chosen]
    for option in chosen:
        if option.marker.used_by == "adapters" and option.value(settings) != option.default:
            raise SettingsError(f"{option.flag}: {entry.title} serves no adapters; leave it out")


def engine_context(settings: Settings, host: Host, files: ModelFiles, progress: Progress) -> EngineContext:
    """What an engine of any plugin is built with."""
    kv_cache, scheduling = settings.kv_cache, settings.scheduling
    options = EngineOptions(
        name=settings.model.served_model_name or files.ref,
        max_length=settings.model.max_length,
        max_batch_size=scheduling.max_batch_size,
        max_batch_input_tokens=scheduling.max_batch_input_tokens,
        memory_share=kv_cache.device_memory_utilization,
        failure_percent=float(settings.server.sim_failure),
        chosen=frozenset(path.rpartition(".")[2] for path in settings.chosen),
    )
    return EngineContext(
        sections=host.section_values(settings),
        options=options,
        files=files,
        model=ModelLoader(settings, host, files, progress),
        progress=progress,
    )


class ModelLoader:
    """A `LoadsModel`. Device and kernels are chosen when they are first asked for."""

    def __init__(self, settings: Settings, host: Host, files: ModelFiles, progress: Progress) -> None:
        self._settings = settings
        self._host = host
        self._files = files
        self._progress = progress
        self._adapters: tuple[BuiltAdapters, Adapters] | None = None  # with slots once the module is filled

    @cached_property
    def _entry(self) -> Entry[Architecture]:
        return self._host.architectures.get(self._files.architecture)

    @property
    def device(self) -> torch.device:
        return self._device

    @cached_property
    def _device(self) -> torch.device:
        return choose_device(self._settings.model.devices)

    @cached_property
    def chooser(self) -> Chooser:
        """What chooses the kernels."""
        names, compiled = chosen_names(self._settings), self._settings.model.use_subgraphs
        return Chooser(self._host, self.device, self.sections, compiled=compiled, names=names)

    @cached_property
    def sections(self) -> Mapping[type[Any], Any]:
        """The settings of plugins."""
        return self._host.section_values(self._settings)

    @cached_property
    def computation(self) -> Computation:
        """The types of weights and sums, and what multiplies."""
        found = self.chooser.computation(self._files.encoding, explicit=self._files.explicit_encoding)
        held = held_encoding(self._host, self._files, found)
        log.info("projections are held in %s and computed in %s", held, str(found.compute).removeprefix("torch."))
        return found

    @property
    def compute(self) -> torch.dtype:
        return self.computation.compute

    @property
    def storage(self) -> torch.dtype:
        return self.computation.storage_dtype(self._files.encoding)

    def weight_bytes(self, module: torch.nn.Module) -> int:
        return held_bytes(self._host, module, self._files, self.computation, self.weight_map())

    def unrounded_bytes(self, module: torch.nn.Module) -> int:
        """What weights take that are not held as codes where plain ones are rounded to some; 0 where none are."""
        rounding = rounding_of(self._host, self._files)
        if rounding is None or not isinstance(self.computation.linear_method, SupportsCodes):
            return 0
        return rounding.plain_bytes(module, self.storage.itemsize)

    def weight_map(self) -> WeightMap:
        """How names of the checkpoint become those of the module."""
        rope_type = self._settings.model.rope_type
        return read_weight_map(self._host, self._entry, self.spec, self._files.config, rope_type=rope_type)

    @property
    def architecture(self) -> Architecture:
        return self._entry.component

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @cached_property
    def _spec(self) -> ModelSpec:
        files, trusted = self._files, self._settings.model.trust_remote_code
        folder = ModelFolder(path=files.path, config=files.config, trusted=trusted)
        return read_spec(self._host, self._entry, folder)

    def build(self, protocol: type[Any], methods: str) -> torch.nn.Module:
        self._progress.phase("Building the model")
        return build_module(self._host, self._entry, self.spec, self.compute, protocol, methods)

    def adapters(self, module: torch.nn.Module) -> Adapters | None:
        from maxserve.core.engine.adapters import Adapters, build_adapters  # which stands on this package

        rows = self.computation.row_dtype(self._files.encoding)
        built = build_adapters(
            self._host,
            self.sections,
            module,
            self.weight_map(),
            self.compute,
            rows,
            self.device,
            self._files.path,
        )
        self._adapters = None if built is None else (built, Adapters(built.table))
        return None if self._adapters is None else self._adapters[1]

    def fill(self, module: torch.nn.Module, positions: int | None = None) -> None:
        host, files = self._host, self._files
        fill(host, module, files, self._entry, self.computation, self.device, self._progress, self.weight_map())
        prepare(cast("Any", module), files, positions)
        if self._adapters is not None:
            from maxserve.core.engine.adapters import adapt

            built, adapters = self._adapters
            adapt(module, built, adapters.step_rows)
            adapters.load_initial()


def held_encoding(host: Host, files: ModelFiles, computation: Computation) -> str:
    """What the weights of projections are held in: the codes of a quantized checkpoint or of rounded weights, where the
    linear method takes them, else a type of numbers."""
    plain = str(computation.storage_dtype(files.encoding)).removeprefix("torch.")
    if not isinstance(computation.linear_method, SupportsCodes):
        return plain
    quantization = quantization_of(host, files.config, files.ref)
    if quantization is None or not isinstance(quantization.format, HasCodes):
        return files.rounding or plain
    return quantization.format.encoding if isinstance(quantization.format, NamesEncoding) else quantization.name


def held_bytes(
    host: Host, module: torch.nn.Module, files: ModelFiles, computation: Computation, weight_map: WeightMap
) -> int:
    """The memory that the weights of a module will take, those that stay codes with as many bits as they have."""
    itemsize = computation.storage_dtype(files.encoding).itemsize
    rounding = rounding_of(host, files)
    if rounding is not None and isinstance(computation.linear_method, SupportsCodes):
        return rounding.held_bytes(module, itemsize)
    if rounding is not None:
        return weight_bytes(module, itemsize) + rounding.copied_bytes(module, itemsize)
    values, size = _codes(host, files, weight_map) if isinstance(computation.linear_method, SupportsCodes) else (0, 0)
    return max(weight_bytes(module, itemsize) - values * itemsize, 0) + size


def _codes(host: Host, files: ModelFiles, weight_map: WeightMap) -> tuple[int, int]:
    """How many of a module's values are codes in the checkpoint, and their bytes."""
    quantization = quantization_of(host, files.config, files.ref)
    if quantization is None or not isinstance(quantization.format, HasCodes):
        return 0, 0
    opened = open_weights(host, files.weights, files.config)
    with open_files(opened) as read:
        return codes_size({file.path: file.tensors for file in opened}, quantization.format, weight_map, read)
