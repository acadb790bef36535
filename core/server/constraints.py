"""What must the text of an answer be? Request fields become constraints that a grammar back end has compiled."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from maxserve.core.engine.compilers import Compilers, preferred_backend
from maxserve.core.errors import GrammarUnsupported, MaxserveError, RequestError
from maxserve.core.model.grammar_vocabulary import grammar_context
from maxserve.core.nouns import Constraint
from maxserve.core.server.constraint_text import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maxserve.core.components import GrammarBackend
    from maxserve.core.grammars import GrammarCompiler
    from maxserve.core.interfaces import ServerContext

log = logging.getLogger("maxserve.server")

THREADS = 4  # compilations at once; one that was given up goes on in its thread until it is done
LONGEST = 30.0  # seconds that a client waits for a compilation
KEPT = 1024  # outcomes that are remembered

Key = tuple[str, str, str]  # back end, kind, text


class Constraints:
    """Chooses back ends and has constraints compiled, beside the event loop that owns it."""

    def __init__(self, context: ServerContext) -> None:
        sampling = context.settings.sampling
        self._enabled = sampling.enable_structured_output
        self._backend = sampling.structured_output_backend
        entries = sorted(context.host.grammar_backends, key=lambda e: (-e.component.priority, e.component.name))
        self._backends: dict[str, GrammarBackend] = {e.component.name: e.component for e in entries}
        self._compilers = Compilers(
            context.host, lambda: grammar_context(context.tokenizer, context.model, context.sections)
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="maxserve-constraints")
        preferred = preferred_backend(context.settings, context.host)
        if preferred is not None:  # the first request is not to wait for the vocabulary
            self._threads.submit(self._compilers, preferred)
        self._compiling: dict[Key, asyncio.Future[GrammarUnsupported | None]] = {}
        self._outcomes: OrderedDict[Key, GrammarUnsupported | None] = OrderedDict()
        self._words, self._ends = -(-context.model.vocab_size // 32), context.model.eos_token_ids
        self.longest = LONGEST

    @property
    def kinds(self) -> frozenset[str]:
        """What some back end accepts."""
        return frozenset[str]().union(*(backend.accepts for backend in self._backends.values()))

    async def choose(self, kind: str, value: Any, *, param: str, backend: str | None = None) -> Constraint:
        """The constraint in its canonical form, with the back end that has compiled it.

        RequestError 400 naming `param`, and in a schema the keyword and its path, when none can.
        """
        if not self._enabled:
            message = f"{param}: structured output is switched off on this server (--no-enable-structured-output)"
            raise RequestError(message, param=param, code="unsupported_parameter")
        text = canonical(kind, value, param)
        refusal: GrammarUnsupported | None = None
        for name in self._candidates(kind, text, backend or self._backend, param):
            error = await self._outcome((name, kind, text), param)
            if error is None:
                return Constraint(kind=kind, text=text, backend=name)
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
        """Whether it compiled before, and still has it."""
        built = self._compilers.built(name)
        compiled = built is not None and built.cached(kind, text)
        return compiled and (name, kind, text) in self._outcomes and self._outcomes[name, kind, text] is None

    async def _outcome(self, key: Key, param: str) -> GrammarUnsupported | None:
        """None when it compiles; whoever asks for the same at the same time waits for the same compilation."""
        if key in self._outcomes:
            self._outcomes.move_to_end(key)
            return self._outcomes[key]
        future = self._compiling.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._compiling[key] = loop.run_in_executor(self._threads, self._compile, key)
            future.add_done_callback(lambda done: self._note(key, done))
        try:
            return await asyncio.wait_for(asyncio.shield(future), self.longest)
        except TimeoutError:
            message = f"{param}: compiling it took longer than {self.longest:g} s; make it smaller"
            raise RequestError(message, param=param, code="invalid_schema") from None

    def _compile(self, key: Key) -> GrammarUnsupported | None:
        name, kind, text = key
        try:
            compiler = self._compilers(name)
            compiler.check(kind, text)
            _try(compiler, kind, text, self._words, self._ends)
        except GrammarUnsupported as error:
            return error
        except MaxserveError as error:  # the model or the back end cannot do it at all
            return GrammarUnsupported(str(error))
        return None

    def _note(self, key: Key, done: asyncio.Future[GrammarUnsupported | None]) -> None:
        self._compiling.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._outcomes[key] = done.result()
        while len(self._outcomes) > KEPT:
            self._outcomes.popitem(last=False)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _try(compiler: GrammarCompiler, kind: str, text: str, words: int, ends: Sequence[int]) -> None:
    """Compiles and looks at the first step: what allows no text is refused here and not by an endless answer."""
    matcher = compiler.compile(kind, text)()
    row = np.zeros(words, dtype=np.int32)
    matcher.fill(row)
    bits = row.view(np.uint32)
    for id in ends:
        bits[id // 32] &= np.uint32(~(1 << (id % 32)) & 0xFFFFFFFF)
    if not row.any():
        raise GrammarUnsupported("no text, or only the empty one, is valid", invalid=True)


def _refused(error: GrammarUnsupported, kind: str, param: str) -> RequestError:
    code = "invalid_schema" if kind.startswith("json") else f"invalid_{kind}"
    return RequestError(f"{param}: {error.message}", param=param, code=code)
