"""A declared architecture as a module with its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from maxserve.core.interfaces.architecture import BoundsPositions
from maxserve.core.interfaces.errors import MaxserveError, ModelError, PluginError
from maxserve.core.loading.device import DTYPES
from maxserve.core.loading.quantization import quantization_of, rounding_entry, rounding_to
from maxserve.core.loading.rounding import Rounding
from maxserve.core.loading.rounding_cache import RoundingCache
from maxserve.core.loading.weight_files import open_weights
from maxserve.core.loading.weights import LinearStorage, load_weights
from maxserve.core.registry.entries import cause

if TYPE_CHECKING:
    from maxserve.core.interfaces.architecture import Architecture, WeightMap
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.loading.kernels import Computation
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


M = TypeVar("M")


class SupportsPrepare(Protocol):
    def prepare(self) -> None: ...


def build_module(
    host: Host, architecture: Entry[Architecture], spec: Any, compute: torch.dtype, protocol: type[Any], methods: str
) -> torch.nn.Module:
    """The module without memory behind it: what it needs is planned before anything is allocated.

    PluginError unless it is of the `protocol`, whose `methods` are named.
    """
    model = on_meta(lambda: host.build(architecture, spec), compute)
    if not isinstance(model, torch.nn.Module) or not isinstance(model, protocol):
        raise PluginError(
            f"architecture {architecture.component.name!r} of plugin {architecture.plugin!r} built a "
            f"{type(model).__name__}; build(config) must give a torch.nn.Module with {methods}"
        )
    return model.eval()


def on_meta(make: Callable[[], M], compute: torch.dtype) -> M:
    """What is made, without memory behind it, parameters of the type `compute`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(compute)
    try:
        with torch.device("meta"):
            return make()
    finally:
        torch.set_default_dtype(before)


def fill(
    host: Host,
    module: torch.nn.Module,
    files: ModelFiles,
    architecture: Entry[Architecture],
    computation: Computation,
    device: torch.device,
    progress: Progress,
    weight_map: WeightMap,
) -> None:
    """Gives the module its weights and its kernels, as its architecture loads them."""
    load = host.load(architecture, architecture.component.load)
    fill_from(host, module, files, computation, device, progress, weight_map, load=load)


def fill_from(
    host: Host,
    module: torch.nn.Module,
    files: ModelFiles,
    computation: Computation,
    device: torch.device,
    progress: Progress,
    weight_map: WeightMap,
    *,
    load: Callable[..., None] = load_weights,
) -> None:
    """The same for a module of no architecture."""
    encoding = DTYPES[files.encoding] if files.explicit_encoding else None
    method, rounding = computation.linear_method, rounding_of(host, files)
    plain = method is None and rounding is None
    storage = None if plain else LinearStorage(method=method, encoding=encoding, rounding=rounding)
    load(
        module,
        open_weights(host, files.weights, files.config),
        weight_map,
        dtype=computation.compute,
        device=device,
        progress=progress,
        storage=storage,
        quantization=quantization_of(host, files.config, files.ref),
    )


def rounding_of(host: Host, files: ModelFiles) -> Rounding | None:
    """What rounds the weights of these files, where the operator wants it."""
    if not files.rounding:
        return None
    by = rounding_entry(host, files.rounding).title
    cache = RoundingCache(files.rounding_cache, by) if files.rounding_cache else None
    return Rounding(files.rounding, rounding_to(host, files.rounding), cache)


def bound_positions(module: torch.nn.Module, positions: int | None) -> None:
    """Tells all that is in a module how many positions texts have at most, unless that is None."""
    if positions is None:
        return
    for part in module.modules():
        if isinstance(part, BoundsPositions):
            part.bound_positions(positions)


def prepare(model: SupportsPrepare, files: ModelFiles, positions: int | None = None) -> None:
    """Lets the model compute what no checkpoint holds, for texts of so many positions.

    ModelError where its config has numbers that allow none.
    """
    try:
        if isinstance(model, torch.nn.Module):
            bound_positions(model, positions)
        model.prepare()
    except MaxserveError:
        raise
    except Exception as error:
        raise ModelError(
            f"config.json: architecture {files.architecture} cannot compute with these values ({cause(error)[:300]})"
        ) from error
