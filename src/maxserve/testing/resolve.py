"""The component that a check class tests: the one given to it, or the registered one of that name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.component import Component, Ref
from maxserve.core.registry.entries import load_ref
from maxserve.core.registry.kinds import KINDS
from maxserve.core.registry.protocol import Host

T = TypeVar("T", bound=Component)


def resolve(kind: type[T], name: str, given: T | None) -> T:
    """`given`, or what an installed plugin declares under `name`."""
    if given is not None:
        return given
    assert name, f"the check class names no {kind.kind}: set its class attribute, or `component`"
    component: T = installed().of(kind).get(name).component
    return component


def installed() -> Any:
    """A host of everything that is installed."""
    from maxserve.core.registry.host import PluginHost, PluginOptions

    return PluginHost.discover(PluginOptions(), strict=True)


def declaring(plugin_host: Callable[..., Host], given: Component | None) -> Host:
    """A host of the built-ins and `given`, or of everything that is installed; `plugin_host` is the fixture."""
    if given is None:
        host: Host = installed()
        return host
    hook = next(kind.hook for kind in KINDS if kind.name == given.kind)
    return plugin_host(SimpleNamespace(**{hook: hookimpl(lambda: [given])}))


def load(ref: Ref) -> Any:
    """The thing itself."""
    return load_ref(ref)
