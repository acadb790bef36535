"""With which plugins' kernels does the model compute, and in which types? The best that this machine can have."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from maxserve.core.computing import LayerContext, LinearContext
from maxserve.core.engine.device import DTYPES
from maxserve.core.errors import Unavailable
from maxserve.core.registry import Declared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from maxserve.core.computing import Attention, CompilesLayers, WeightKeeper
    from maxserve.core.host import Host
    from maxserve.core.registry import Entry

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """How a model computes. Without a `keeper` its projections keep their weights themselves."""

    compute: torch.dtype
    keeper: WeightKeeper | None

    def stored(self, encoding: str) -> torch.dtype:
        """The type in which projections and tables of a checkpoint of that encoding are held."""
        return self.compute if self.keeper is None else self.keeper.stored(DTYPES[encoding])


class CompiledLayer(nn.Module):
    """A layer whose `call` stands for its code; `layer` holds its weights."""

    def __init__(self, layer: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.forward = call


class Chooser:
    """Builds, of each kind, the component of highest priority that can work here, and says so once."""

    def __init__(
        self, host: Host, device: torch.device, sections: Mapping[type[Any], Any], *, compiled: bool = True
    ) -> None:
        self._host = host
        self._device = device
        self._sections = sections
        self._compiled = compiled
        self._reasons: set[str] = set()

    def computation(self, encoding: str, *, explicit: bool) -> Computation:
        """How to compute a checkpoint whose weights are in `encoding`, which the operator may have asked for.

        On a CPU the arithmetic is float32: exact, and on the many CPUs without matrix units for 16-bit types faster.
        Where the weights can be kept in 16 bits all the same, they are. Where they cannot, a type that was asked for
        is taken at its word, and others become float32 in twice the memory.
        """
        stored = DTYPES[encoding]
        compute = torch.float32 if self._device.type == "cpu" else stored
        keeper = self._keeper(compute)
        held = compute if keeper is None else keeper.stored(stored)
        if explicit and held.itemsize > stored.itemsize:
            compute, keeper = stored, self._keeper(stored)
            held = stored
        log.info("weights are held in %s and computed in %s", _name(held), _name(compute))
        return Computation(compute=compute, keeper=keeper)

    def compile_layers(self, model: nn.Module, attention: Attention, compute: torch.dtype) -> None:
        """Puts a compiled call in the place of every layer, an entry of a ModuleList, that can be compiled."""
        context = LayerContext(sections=self._sections, compute=compute, device=self._device)
        compiler: CompilesLayers | None = self.best(self._host.layer_compilers, context)
        if compiler is None:
            return
        for layers in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
            for index, layer in enumerate(layers):
                call = compiler.compile(layer, attention)
                if call is not None:
                    layers[index] = CompiledLayer(layer, call)

    def best(self, entries: Iterable[Entry[R]], context: Any) -> Any:
        """What the best component builds; None when none of them can."""
        usable = [e for e in entries if self._device.type in e.component.devices]
        usable = [e for e in usable if self._compiled or not e.component.compiled]
        for entry in sorted(usable, key=lambda e: (-e.component.priority, e.name)):
            try:
                built = self._host.build(entry, context)
            except Unavailable as error:
                self._say(str(error))
                continue
            log.info("%s: %s", entry.kind.replace("_", " "), entry.name)
            return built
        return None

    def _keeper(self, compute: torch.dtype) -> WeightKeeper | None:
        context = LinearContext(sections=self._sections, compute=compute, device=self._device)
        keeper: WeightKeeper | None = self.best(self._host.linear_methods, context)
        return keeper

    def _say(self, reason: str) -> None:
        """Several components may be missing for one reason."""
        if reason not in self._reasons:
            log.warning("%s", reason)
        self._reasons.add(reason)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
