"""The grammar compilers of one process: each is built when it is first asked for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from maxserve.core.interfaces.grammar import GrammarBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from maxserve.core.interfaces.component import Components
    from maxserve.core.interfaces.grammar import GrammarChoice, GrammarCompiler, GrammarContext, Matcher
    from maxserve.core.interfaces.request import ThoughtTokens


class Compilers:
    """Asked from any thread; threads that come while one is being built wait for it."""

    def __init__(self, components: Components, context: Callable[[], GrammarContext]) -> None:
        self._components = components
        self._make_context = context
        self._context: GrammarContext | None = None
        self._built: dict[str, GrammarCompiler] = {}
        self._lock = threading.Lock()

    def built(self, name: str) -> GrammarCompiler | None:
        """The compiler, if there is one already."""
        return self._built.get(name)

    def __call__(self, name: str) -> GrammarCompiler:
        """The compiler of the back end called `name`; PluginError or ModelError when there can be none."""
        found = self._built.get(name)
        if found is not None:
            return found
        with self._lock:
            if name not in self._built:
                if self._context is None:
                    self._context = self._make_context()
                entry = self._components.of(GrammarBackend).get(name)
                self._built[name] = self._components.build(entry, self._context)
            return self._built[name]

    def with_thoughts(self, name: str, matcher: Matcher, thoughts: ThoughtTokens, ends: tuple[int, ...]) -> Matcher:
        """What follows thoughts, and behind them the text of the back end's `matcher`."""
        entry = self._components.of(GrammarBackend).get(name)
        found: Matcher = self._components.load(entry, entry.component.thoughts)(matcher, thoughts, ends)
        return found


def preferred_backend(choice: GrammarChoice, components: Components) -> str | None:
    """The back end that serves most constraints, None when none is served; PluginError for a wrong name."""
    backends = components.of(GrammarBackend)
    if choice.backend != "auto":
        return backends.get(choice.backend).name
    if not choice.enabled:
        return None
    best = max(backends, key=lambda entry: entry.component.priority, default=None)
    return None if best is None else best.name
