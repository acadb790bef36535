"""A declared architecture as a module with its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from maxserve.core.interfaces.architecture import BoundsPositions
from maxserve.core.interfaces.errors import MaxserveError, ModelError, PluginError, cause
from maxserve.core.loading.shard import shared_by

if TYPE_CHECKING:
    from maxserve.core.interfaces.architecture import Architecture
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.loading.shard import Shard
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


M = TypeVar("M")


class SupportsPrepare(Protocol):
    def prepare(self) -> None: ...


def build_module(
    host: Host,
    architecture: Entry[Architecture],
    spec: Any,
    compute: torch.dtype,
    protocol: type[Any],
    methods: str,
    *,
    shard: Shard | None = None,
) -> torch.nn.Module:
    """The module without memory behind it: what it needs is planned before anything is allocated.

    With a `shard`, it computes that rank's part; its parameters have the sizes of the whole until they are loaded.
    PluginError unless it is of the `protocol`, whose `methods` are named.
    """
    with shared_by(shard):
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


def weight_bytes(model: torch.nn.Module, itemsize: int) -> int:
    """Bytes of a model's parameters, shared ones counted once; the model may be on the meta device."""
    return itemsize * sum(parameter.numel() for parameter in model.parameters())


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
