"""The constraint that an answer must keep: request fields as a grammar that a back end has compiled."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from cachetools import LRUCache

from maxserve.interfaces.errors import GrammarUnsupported, RequestError
from maxserve.interfaces.grammar import GrammarBackend
from maxserve.interfaces.request import Constraint
from maxserve.loading import preferred_backend
from maxserve.plugins.api.constraints.messages import Begin, Outcome
from maxserve.plugins.api.constraints.sandbox import Sandbox
from maxserve.plugins.api.constraints.text import canonical
from maxserve.text import grammar_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maxserve.interfaces.routes import ServerContext
    from maxserve.plugins.api.constraints.sandbox import TriesConstraints

LONGEST = 30.0  # seconds that a client waits for a compilation
KEPT = 32 * 1024**2  # bytes of outcomes that are remembered
SLOW = 0.1  # seconds of processor time from which on a constraint is slow

Key = tuple[str, str, bytes]  # back end, kind, digest of the text


class Chosen(msgspec.Struct, frozen=True):
    """A constraint, and a line for each thing that was left out of it."""

    constraint: Constraint
    warnings: tuple[str, ...] = ()


class _Compilation(msgspec.Struct):
    task: asyncio.Task[Outcome]
    waiting: int = 0


class Constraints:
    """Chooses back ends and has constraints compiled, beside the event loop that owns it."""

    def __init__(self, context: ServerContext, tries: TriesConstraints | None = None) -> None:
        self._enabled = context.grammars.enabled
        self._backend = context.grammars.backend
        entries = sorted(context.components.of(GrammarBackend), key=lambda e: (-e.component.priority, e.component.name))
        self._backends: dict[str, GrammarBackend] = {e.component.name: e.component for e in entries}
        self._tries = tries or _sandbox(context)
        self._compiling: dict[Key, _Compilation] = {}
        self._outcomes: LRUCache[Key, Outcome] = LRUCache(KEPT, getsizeof=_size)
        self.longest = LONGEST

    @property
    def kinds(self) -> frozenset[str]:
        """What some back end accepts."""
        return frozenset[str]().union(*(backend.accepts for backend in self._backends.values()))

    async def choose(self, kind: str, value: Any, *, param: str, backend: str | None = None) -> Chosen:
        """The constraint as a back end that has compiled it wants it, and that back end.

        RequestError 400 naming `param`, and in a schema the keyword and its path, when none can.
        """
        if not self._enabled:
            message = f"{param}: structured output is switched off on this server (--no-enable-structured-output)"
            raise RequestError(message, param=param, code="unsupported_parameter")
        text = canonical(kind, value, param)
        refusal: GrammarUnsupported | None = None
        for name in self._candidates(kind, text, backend or self._backend, param):
            outcome = await self._outcome(name, kind, text, param)
            error = outcome.refusal
            if error is None:
                slow = outcome.seconds > SLOW
                constraint = Constraint(kind=outcome.kind, text=outcome.text, backend=name, slow=slow)
                return Chosen(constraint, outcome.warnings)
            refusal = refusal or error
            if error.invalid:
                break
        raise _refused(refusal or GrammarUnsupported(f"no grammar back end takes {kind}"), kind, param)

    def _candidates(self, kind: str, text: str, wanted: str, param: str) -> Sequence[str]:
        """By priority; but first who has it compiled already, of those who took longest to start: they mask fastest."""
        if wanted == "auto":
            able = [name for name, backend in self._backends.items() if kind in backend.accepts]
            ready = [name for name in reversed(able) if self._ready(name, kind, text)]
            return [*ready, *(name for name in able if name not in ready)]
        if wanted not in self._backends:
            known = ", ".join(self._backends)
            raise RequestError(f"{param}: no grammar back end {wanted!r}; there are {known}", param=param)
        if kind not in self._backends[wanted].accepts:
            raise RequestError(f"{param}: back end {wanted!r} does not take {kind}", param=param, code="invalid_schema")
        return [wanted]

    def _ready(self, name: str, kind: str, text: str) -> bool:
        """Whether it compiled before: the worker still has it, most likely."""
        found = self._outcomes.get(_key(name, kind, text))
        return found is not None and found.refused is None

    async def _outcome(self, name: str, kind: str, text: str, param: str) -> Outcome:
        """What became of it; requests for the same at the same time wait for the same compilation.

        It is stopped when all of them have gone.
        """
        key = _key(name, kind, text)
        if (found := self._outcomes.get(key)) is not None:
            return found
        compilation = self._compiling.get(key)
        if compilation is None:
            task = asyncio.ensure_future(self._tries.outcome(name, kind, text))
            compilation = self._compiling[key] = _Compilation(task)
            task.add_done_callback(lambda done: self._note(key, done))
        compilation.waiting += 1
        try:
            return await asyncio.wait_for(asyncio.shield(compilation.task), self.longest)
        except TimeoutError:
            message = f"{param}: compiling it took longer than {self.longest:g} s; make it smaller"
            raise RequestError(message, param=param, code="invalid_schema") from None
        finally:
            compilation.waiting -= 1
            if not compilation.waiting:
                self._compiling.pop(key, None)
                compilation.task.cancel()

    def _note(self, key: Key, done: asyncio.Task[Outcome]) -> None:
        if not done.cancelled() and done.exception() is None and _size(done.result()) <= KEPT:
            self._outcomes[key] = done.result()

    def close(self) -> None:
        """Stops what is compiled."""
        self._tries.close()


def _sandbox(context: ServerContext) -> Sandbox:
    """Starts at once where a loop runs and a back end will be wanted: the first request is not to wait for it.

    A model of vectors writes no answers.
    """
    preferred = preferred_backend(context.grammars, context.components)
    wanted = preferred is not None and context.model.vectors is None

    def begin() -> Begin:
        grammar = grammar_context(context.tokenizer, context.model, {})
        return Begin(
            plugins=context.plugins,
            search_path=tuple(sys.path),
            vocabulary=tuple(grammar.vocabulary),
            eos_token_ids=grammar.eos_token_ids,
            vocab_size=grammar.vocab_size,
            tokenizer_path=grammar.tokenizer_path,
            preferred=preferred,
        )

    sandbox = Sandbox(begin)
    if wanted and asyncio._get_running_loop() is not None:
        sandbox.start()
    return sandbox


def _key(name: str, kind: str, text: str) -> Key:
    return name, kind, hashlib.blake2b(text.encode(), digest_size=32).digest()


def _size(outcome: Outcome) -> int:
    texts = (outcome.text, outcome.refused or "", *outcome.warnings)
    return 512 + sum(map(sys.getsizeof, texts))


def _refused(error: GrammarUnsupported, kind: str, param: str) -> RequestError:
    code = "invalid_schema" if kind.startswith("json") else f"invalid_{kind}"
    return RequestError(f"{param}: {error.message}", param=param, code=code)
