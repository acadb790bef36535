"""Engines and what they are built with: the model's config, module and weights, and the operator's options."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from maxserve.core.config.catalog import catalog
from maxserve.core.interfaces.adapter import AdapterPoolContext
from maxserve.core.interfaces.architecture import LOAD
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.engine import EngineContext, EngineOptions
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.linear import SupportsCodes
from maxserve.core.interfaces.quantization import HasCodes, NamesRounded
from maxserve.core.interfaces.tokenizer import TokenizerContext
from maxserve.core.loading.architecture import read_spec, read_weight_map, rotary_changes
from maxserve.core.loading.build import bound_positions, build_module, prepare, weight_bytes
from maxserve.core.loading.device import DTYPES, choose_device
from maxserve.core.loading.kernels import Chooser, Computation, chosen_names
from maxserve.core.loading.location import ModelFolder
from maxserve.core.loading.quantization import codes_size, encoding_sizes, quantization_of, rounding_of, shares_text
from maxserve.core.loading.resolve import resolve_checkpoint, resolve_model
from maxserve.core.loading.storage import LinearStorage
from maxserve.core.loading.tasks import GENERATION, OwnContext, engine_for
from maxserve.core.loading.weight_files import open_files, open_weights
from maxserve.core.registry.contracts import built_part
from maxserve.core.registry.entries import load_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from maxserve.core.config import Settings
    from maxserve.core.interfaces.adapter import Adapter, AdapterPool, AdapterSlots
    from maxserve.core.interfaces.architecture import Architecture, ModelSpec, WeightMap
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.engine import Engine, ModelFiles, ServedEngine
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.interfaces.quantization import Rounding
    from maxserve.core.interfaces.tokenizer import Tokenizer, TokenizerFiles
    from maxserve.core.interfaces.weight_format import WeightFile
    from maxserve.core.loading.shard import Shard
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.ranks import RankGroup

log = logging.getLogger("maxserve.engine")


def build_served(
    settings: Settings, host: Host, files: ModelFiles, progress: Progress, group: RankGroup | None = None
) -> ServedEngine:
    """The engine for the task of the model, ready to serve; with a `group`, the first of ranks that share it."""
    entry = engine_for(files.task, host)
    own = entry.component is GENERATION
    if not own and not entry.component.adapters:
        _validate_no_adapters(settings, entry, host)
    context = (
        OwnContext(settings, host, files, progress, group) if own else engine_context(settings, host, files, progress)
    )
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
    """A `LoadsModels`. Device and kernels are chosen when they are first asked for.

    With a `shard`, models are that rank's part of them.
    """

    def __init__(
        self,
        settings: Settings,
        host: Host,
        files: ModelFiles,
        progress: Progress,
        model: Checkpoint | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.shard = shard
        self._settings = settings
        self._host = host
        self._files = files
        self._progress = progress
        self._adapters: AdapterSlots | None = None  # that `fill` has correct the module
        self._model = model or settings.model
        self._beside: dict[tuple[str, bool], ModelLoader] = {}

    @property
    def files(self) -> ModelFiles:
        return self._files

    @property
    def checkpoint(self) -> Checkpoint:
        return self._model

    def beside(self, model: Checkpoint, *, served: bool = True) -> ModelLoader:
        key = repr(model), served
        if key not in self._beside:
            find = resolve_model if served else resolve_checkpoint
            files = find(model, self._host, progress=self._progress)
            other = self._beside[key] = ModelLoader(self._settings, self._host, files, self._progress, model)
            other._device, other.chooser, other.computation = self.device, self.chooser, self.computation
        return self._beside[key]

    @cached_property
    def _entry(self) -> Entry[Architecture]:
        return self._host.architectures.get(self._files.architecture)

    @property
    def device(self) -> torch.device:
        return self._device

    @cached_property
    def _device(self) -> torch.device:
        return choose_device(self._model.devices if self.shard is None else "cpu")

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
        if not self._files.rounding:  # what that comes to has to be asked of the module
            _say_held(self._held_encoding(found), found)
        return found

    def held_encoding(self, module: torch.nn.Module) -> str:
        """What the weights of a module's projections are held in: the codes of a quantized checkpoint or of rounded
        weights, where the linear method takes them, else a type of numbers."""
        computation, rounding = self.computation, self._rounding
        if rounding is None:
            return self._held_encoding(computation)
        held = ""
        if isinstance(rounding, NamesRounded) and isinstance(computation.linear_method, SupportsCodes):
            held = shares_text(Counter(rounding.encodings(module)))
        held = held or self._held_encoding(computation)
        _say_held(held, computation)
        return held

    def _held_encoding(self, computation: Computation) -> str:
        plain = str(computation.storage_dtype(self._files.encoding)).removeprefix("torch.")
        if not isinstance(computation.linear_method, SupportsCodes):
            return plain
        quantization = quantization_of(self._host, self._files.config, self._files.ref)
        if quantization is None or not isinstance(quantization.format, HasCodes):
            return self._files.rounding or plain
        files = self.weight_files()
        with open_files(files) as read:
            return shares_text(encoding_sizes({file.path: file.tensors for file in files}, quantization, read)) or plain

    @property
    def compute(self) -> torch.dtype:
        return self.computation.compute

    @property
    def storage(self) -> torch.dtype:
        return self.computation.storage_dtype(self._files.encoding)

    def weight_files(self) -> list[WeightFile]:
        return open_weights(self._host, self._files.weights, self._files.config)

    def tokenizer_files(self, folder: str) -> TokenizerFiles:
        """The tokenizer in the folder of a model."""
        trusted = self._settings.model.trust_remote_code
        return self._host.tokenizer(TokenizerContext(sections=self.sections, path=folder, trust_remote_code=trusted))

    def tokenizer(self, folder: str) -> Tokenizer:
        return self.tokenizer_files(folder).load()

    @cached_property
    def _rounding(self) -> Rounding | None:
        return rounding_of(self._host, self._files)

    def weight_bytes(self, module: torch.nn.Module) -> int:
        return self.held_bytes(module, self.weight_map())

    def held_bytes(self, module: torch.nn.Module, weights: WeightMap) -> int:
        method, itemsize = self.computation.linear_method, self.storage.itemsize
        rounding = self._rounding
        if rounding is not None and isinstance(method, SupportsCodes):
            return rounding.held_bytes(module, itemsize)
        if rounding is not None:
            return weight_bytes(module, itemsize) + rounding.copied_bytes(module, itemsize)
        values, size = self._codes(weights) if isinstance(method, SupportsCodes) else (0, 0)
        return max(weight_bytes(module, itemsize) - values * itemsize, 0) + size

    def _codes(self, weights: WeightMap) -> tuple[int, int]:
        """How many of a module's values are codes in the checkpoint, and their bytes."""
        quantization = quantization_of(self._host, self._files.config, self._files.ref)
        if quantization is None or not isinstance(quantization.format, HasCodes):
            return 0, 0
        opened = self.weight_files()
        with open_files(opened) as read:
            return codes_size({file.path: file.tensors for file in opened}, quantization.format, weights, read)

    def unrounded_bytes(self, module: torch.nn.Module) -> int:
        """What weights take that are not held as codes where plain ones are rounded to some; 0 where none are."""
        rounding = self._rounding
        if rounding is None or not isinstance(self.computation.linear_method, SupportsCodes):
            return 0
        return rounding.plain_bytes(module, self.storage.itemsize)

    def weight_map(self) -> WeightMap:
        """How names of the checkpoint become those of the module."""
        rope_type = self._model.rope_type
        return read_weight_map(self._host, self._entry, self.spec, self._files.config, rope_type=rope_type)

    @property
    def architecture(self) -> Architecture:
        return self._entry.component

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @cached_property
    def _spec(self) -> ModelSpec:
        files, trusted = self._files, self._model.trust_remote_code
        folder = ModelFolder(path=files.path, config=files.config, trusted=trusted)
        return read_spec(self._host, self._entry, folder)

    def build(self, protocol: type[Any], methods: str) -> torch.nn.Module:
        if self._model is self._settings.model:
            self._progress.phase("Building the model")
        return build_module(self._host, self._entry, self.spec, self.compute, protocol, methods, shard=self.shard)

    def adapters(self, module: torch.nn.Module) -> AdapterPool | None:
        self._adapters = self.adapter_pool(module)
        return self._adapters

    def adapter_pool(self, module: torch.nn.Module) -> AdapterSlots | None:
        """The pool of the kind of adapters that is to be served, if one is; the module has no weights yet."""
        pools = [(entry, self._pool(entry, module)) for entry in self._host.adapters if self._is_wanted(entry)]
        serving = [(entry, pool) for entry, pool in pools if pool.slots]
        if len(serving) > 1:
            titles = " and ".join(entry.title for entry, _ in serving)
            raise SettingsError(f"{titles} both have adapters to serve, and a model takes those of one; leave one out")
        return serving[0][1] if serving else None

    def _is_wanted(self, entry: Entry[Adapter]) -> bool:
        wanted = entry.component.wanted
        return wanted is None or bool(self._host.load(entry, wanted)(Context(sections=self.sections)))

    def _pool(self, entry: Entry[Adapter], module: torch.nn.Module) -> AdapterSlots:
        context = AdapterPoolContext(
            sections=self.sections,
            adapter=entry,
            components=self._host,
            model=module,
            weights=self.weight_map(),
            compute=self.compute,
            rows=self.computation.row_dtype(self._files.encoding),
            device=self.device,
            path=self._files.path,
        )
        pool: AdapterSlots = built_part(self._host, entry, "pool", context)
        return pool

    def fill(self, module: torch.nn.Module, positions: int | None = None) -> None:
        self._fill(module, self.weight_map(), self._host.load(self._entry, self.architecture.load), self.shard)
        prepare(cast("Any", module), self._files, positions)
        if self._adapters is not None:
            self._adapters.correct()
            self._adapters.load_initial()

    def fill_module(self, module: torch.nn.Module, weights: WeightMap, positions: int | None = None) -> None:
        changes = rotary_changes(module, self._model.rope_type, f"of {self._files.ref}")
        self._fill(module, replace(weights, changes=(*weights.changes, *changes)), load_ref(LOAD))
        bound_positions(module, positions)

    def _fill(
        self, module: torch.nn.Module, weights: WeightMap, load: Callable[..., None], shard: Shard | None = None
    ) -> None:
        files, method = self._files, self.computation.linear_method
        encoding = DTYPES[files.encoding] if files.explicit_encoding else None
        plain = method is None and self._rounding is None
        load(
            module,
            self.weight_files(),
            weights,
            dtype=self.compute,
            device=self.device,
            progress=self._progress,
            storage=None if plain else LinearStorage(method=method, encoding=encoding, rounding=self._rounding),
            quantization=quantization_of(self._host, files.config, files.ref),
            **({} if shard is None else {"shard": shard}),
        )

    def compile_layers(self, module: torch.nn.Module, attention: Attention) -> None:
        if self._model.use_subgraphs:
            self.chooser.compile_layers(module, attention, self.compute)


def _say_held(held: str, computation: Computation) -> None:
    log.info("projections are held in %s and computed in %s", held, str(computation.compute).removeprefix("torch."))
