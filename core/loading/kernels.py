"""The choice of kernels and of the types they compute in: the best that this machine can have."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from maxserve.core.interfaces.errors import PluginError, SettingsError, Unavailable
from maxserve.core.interfaces.layer_compiler import CompilesCorrections, CompilesDrafts, CompilesStacks, LayerContext
from maxserve.core.interfaces.linear import LinearContext, SupportsRounding
from maxserve.core.loading.device import DTYPES
from maxserve.core.loading.linear import Adaptable, Linear
from maxserve.core.loading.stack import DraftChain, FusedLayers, LayerStack
from maxserve.core.registry.contracts import contract_fault
from maxserve.core.registry.entries import Declared, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from maxserve.core.config import Settings
    from maxserve.core.interfaces.attention import Attention, CacheQuery
    from maxserve.core.interfaces.layer_compiler import CompilesLayers
    from maxserve.core.interfaces.linear import BuiltLinearMethod
    from maxserve.core.registry.entries import Entry, Registry
    from maxserve.core.registry.protocol import Host

AUTO, NONE = "auto", "none"
TRIED = 64  # rows and columns of the weight that a linear method is tried on
OPTIONAL = ("linear_method", "layer_compiler")  # kinds that a model can do without

log = logging.getLogger("maxserve.engine")


class Ranked(Declared, Protocol):
    """A component of a kind of which one serves."""

    @property
    def devices(self) -> tuple[str, ...]: ...
    @property
    def priority(self) -> int: ...
    @property
    def compiled(self) -> bool: ...


R = TypeVar("R", bound=Ranked)


class Computation(msgspec.Struct, frozen=True, kw_only=True):
    """How a model computes. Without a `linear_method` its projections store their weights themselves."""

    compute: torch.dtype
    linear_method: BuiltLinearMethod | None

    def storage_dtype(self, encoding: str) -> torch.dtype:
        """The type in which projections and tables of a checkpoint of that encoding are held."""
        return self.compute if self.linear_method is None else self.linear_method.storage_dtype(DTYPES[encoding])

    def row_dtype(self, encoding: str) -> torch.dtype:
        """The type of rows that such a checkpoint's projections multiply, in which keys and values are stored."""
        method = self.linear_method
        return method.row_dtype(DTYPES[encoding]) if isinstance(method, SupportsRounding) else self.compute


def _fuse(
    compiler: CompilesStacks, calls: Sequence[Callable[..., Tensor]], start: int, stop: int
) -> FusedLayers | None:
    """One call of the layers from `start` to before `stop`, if there can be one."""
    return compiler.compile_stack(calls[start:stop])


class CompiledLayer(nn.Module):
    """A layer whose `call` stands for its code; `layer` holds its weights."""

    def __init__(self, layer: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.call = call  # a Module among them becomes a part of this one
        self.forward = call.forward if isinstance(call, nn.Module) else call


def chosen_names(settings: Settings) -> dict[str, str]:
    """The components that the operator named, by kind; AUTO leaves the choice to us, NONE wants no component."""
    model = settings.model
    return {
        "attention_backend": model.attention_backend,
        "linear_method": model.linear_method,
        "layer_compiler": model.layer_compiler,
        "model_runner": model.model_runner,
    }


class Chooser:
    """Builds, of each kind, the component that was named, else that of highest priority that can work here.

    Says once what serves. `compiled` False leaves out those that compile something.
    """

    def __init__(
        self,
        host: Host,
        device: torch.device,
        sections: Mapping[type[Any], Any],
        *,
        compiled: bool = True,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._host = host
        self._device = device
        self._sections = sections
        self._compiled = compiled
        self._names = names or {}
        self._reasons: set[str] = set()
        self.serving: list[Entry[Any]] = []  # what was built and is used

    def computation(self, encoding: str, *, explicit: bool) -> Computation:
        """How to compute a checkpoint whose weights are in `encoding`, which the operator may have asked for.

        On a CPU the arithmetic is float32: exact, and on the many CPUs without matrix units for 16-bit types faster.
        Where the weights can be stored in 16 bits all the same, they are. Where they cannot, a type that was asked for
        is taken at its word, and others become float32 in twice the memory.
        """
        stored = DTYPES[encoding]
        compute = torch.float32 if self._device.type == "cpu" else stored
        method = self._linear_method(compute)
        held = compute if method is None else method.storage_dtype(stored)
        if explicit and held.itemsize > stored.itemsize:
            compute, method = stored, self._linear_method(stored)
        return Computation(compute=compute, linear_method=method)

    def compile_layers(self, model: nn.Module, attention: Attention, compute: torch.dtype) -> None:
        """Replaces every layer, an entry of a ModuleList, by its compiled call, where there is one."""
        context = LayerContext(sections=self._sections, compute=compute, device=self._device)
        compiler: CompilesLayers | None = self.best(self._host.layer_compilers, context)
        if compiler is None:
            return
        for chain in [module for module in model.modules() if isinstance(module, DraftChain)]:
            if _needs_other_corrections(chain.cell, compiler):
                continue
            cell = compiler.compile(chain.cell, attention) if isinstance(compiler, CompilesDrafts) else None
            chain.fused = compiler.compile_drafts(cell) if isinstance(compiler, CompilesDrafts) and cell else None
        for layers in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
            for index, layer in enumerate(layers):
                if _needs_other_corrections(layer, compiler):
                    self._say(
                        f"layers of class {type(layer).__name__} run as they are written: adapters correct them in a "
                        f"way that {self.serving[-1].title} does not carry out"
                    )
                    continue
                call = compiler.compile(layer, attention)
                if call is None:
                    continue
                if not callable(call):
                    title = self.serving[-1].title
                    raise PluginError(
                        f"{title}: compile returned a {type(call).__name__}; it must be callable, or None"
                    )
                layers[index] = CompiledLayer(layer, call)
            if isinstance(layers, LayerStack) and isinstance(compiler, CompilesStacks):
                calls = [layer.call for layer in layers if isinstance(layer, CompiledLayer)]
                if len(calls) == len(layers):
                    last = None if layers.last is None else compiler.compile(layers.last, attention)
                    layers.fuses_last = last is not None
                    layers.fuse = partial(_fuse, compiler, calls if last is None else [*calls, last])

    def best(self, registry: Registry[R], context: Any, unfit: Callable[[R], str | None] | None = None) -> Any:
        """Returns what the named or the best component builds; None when none can, or none is wanted.

        `unfit` says why one is not even to be tried. SettingsError when the component that was named cannot work here.
        """
        name = self._names.get(registry.kind, AUTO)
        if name == NONE and registry.kind in OPTIONAL:
            return None
        if name != AUTO:
            return self._named(registry.get(name), context, unfit)
        for entry in self._usable(registry):
            reason = unfit(entry.component) if unfit else None
            if reason is not None:
                self._say(f"{entry}: {reason}")
                continue
            try:
                built = self._host.build(entry, context)
            except Unavailable as error:
                self._say(str(error))
                continue
            self._use(entry)
            return built
        return None

    def cache_dtype(self, query: CacheQuery) -> torch.dtype:
        """The type that the attention back end which will serve wants keys and values in."""
        registry = self._host.attention_backends
        name = self._names.get(registry.kind, AUTO)
        for entry in self._usable(registry) if name == AUTO else [registry.get(name)]:
            wanted = entry.component.cache_dtype
            if wanted is None:
                break
            try:
                found: torch.dtype = self._host.load(entry, wanted)(query)
            except Unavailable:
                continue
            return found
        return query.compute

    def _usable(self, registry: Registry[R]) -> list[Entry[R]]:
        """Those that can be tried here, the best first."""
        usable = [e for e in registry if self._obstacle(e) is None]
        return sorted(usable, key=lambda e: (-e.component.priority, e.name))

    def _named(self, entry: Entry[R], context: Any, unfit: Callable[[R], str | None] | None = None) -> Any:
        flag = f"--{entry.kind.replace('_', '-')} {entry.name}"
        obstacle = self._obstacle(entry) or (unfit(entry.component) if unfit else None)
        if obstacle is not None:
            raise SettingsError(f"{flag}: {obstacle}; name another one, or leave the option out")
        try:
            built = self._host.build(entry, context)
        except Unavailable as error:
            raise SettingsError(f"{flag}: {error}; name another one, or leave the option out") from error
        self._use(entry)
        return built

    def _use(self, entry: Entry[Any]) -> None:
        log.info("%s: %s", words(entry.kind), entry.name)
        self.serving.append(entry)

    def _obstacle(self, entry: Entry[R]) -> str | None:
        """Why a component cannot even be tried here."""
        if self._device.type not in entry.component.devices:
            return f"{entry} is for {', '.join(entry.component.devices)}, and the model runs on {self._device.type}"
        if entry.component.compiled and not self._compiled:
            return f"{entry} compiles, which --no-use-subgraphs forbids"
        return None

    def _linear_method(self, compute: torch.dtype) -> BuiltLinearMethod | None:
        context = LinearContext(sections=self._sections, compute=compute, device=self._device)
        method: BuiltLinearMethod | None = self.best(self._host.linear_methods, context)
        if method is not None:
            _check_linear_method(method, context, self.serving[-1].title)
        return method

    def _say(self, reason: str) -> None:
        """Several components may be missing for one reason."""
        if reason not in self._reasons:
            log.warning("%s", reason)
        self._reasons.add(reason)


def _needs_other_corrections(layer: nn.Module, compiler: CompilesLayers) -> bool:
    """Whether adapters correct a projection in it in a way that a compiled call would pass over."""
    corrected = [m for m in layer.modules() if isinstance(m, Adaptable) and m.correction is not None]
    return not all(
        isinstance(compiler, CompilesCorrections)
        and isinstance(module, Linear)
        and module.correction is not None
        and compiler.corrects(module.correction.correction)
        for module in corrected
    )


def _check_linear_method(method: BuiltLinearMethod, context: LinearContext, title: str) -> None:
    """Raises PluginError unless a small weight is stored and multiplied by as the method promises.

    A product of the wrong width or type would otherwise show in the middle of a model, without a name.
    """
    for checkpoint in sorted({*DTYPES.values()}, key=str):
        stored = method.storage_dtype(checkpoint)
        if not isinstance(stored, torch.dtype):
            raise PluginError(f"{title}: storage_dtype({checkpoint}) returned {stored!r}, which is no torch.dtype")
        packed = method.create(TRIED, TRIED, stored)
        if packed is None:
            continue
        fault = contract_fault("weight", packed)
        if fault is not None:
            raise PluginError(f"{title}: create {fault}")
        packed.load_rows(torch.ones(TRIED, TRIED, dtype=stored, device=context.device), 0)
        product = packed.multiply(torch.ones(1, TRIED, dtype=context.compute, device=context.device), None)
        if product.shape != (1, TRIED) or product.dtype != context.compute or not product.isfinite().all():
            raise PluginError(
                f"{title}: multiply returned {list(product.shape)} {product.dtype} for a row of ones and a weight of "
                f"ones [{TRIED}, {TRIED}]; [1, {TRIED}] finite values of {context.compute} are due"
            )
