"""The component that a check class tests: the one given to it, or the registered one of that name."""

from __future__ import annotations

from typing import Any, TypeVar

from maxserve.core.interfaces.cache import CacheStrategy, EvictionPolicy
from maxserve.core.interfaces.component import Component, Ref
from maxserve.core.interfaces.grammar import GrammarBackend
from maxserve.core.interfaces.observer import Observer
from maxserve.core.interfaces.parsers import ReasoningParser, ToolParser
from maxserve.core.interfaces.routes import Routes
from maxserve.core.interfaces.sampler import Sampler
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.registry.entries import load_ref

T = TypeVar("T", bound=Component)

REGISTRIES: dict[type[Component], str] = {
    CacheStrategy: "cache_strategies",
    EvictionPolicy: "eviction_policies",
    GrammarBackend: "grammar_backends",
    Scheduler: "schedulers",
    Sampler: "samplers",
    ToolParser: "tool_parsers",
    ReasoningParser: "reasoning_parsers",
    Routes: "routes",
    Observer: "observers",
}


def resolve(kind: type[T], name: str, given: T | None) -> T:
    """`given`, or what an installed plugin declares under `name`."""
    if given is not None:
        return given
    assert name, f"the check class names no {kind.kind}: set its class attribute, or `component`"
    from maxserve.core.registry.host import PluginHost, PluginOptions

    registry = getattr(PluginHost.discover(PluginOptions(), strict=True), REGISTRIES[kind])
    component: T = registry.get(name).component
    return component


def load(ref: Ref) -> Any:
    """The thing itself."""
    return load_ref(ref)
