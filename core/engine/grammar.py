"""Grammars of requests: the state of each text, and the masks of a step.

A matcher is made beside the step loop; its request waits outside the queues meanwhile, and the others go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

import msgspec
import numpy as np
import torch

from maxserve.core.engine.grammar_state import WORD, GrammarState
from maxserve.core.engine.step import INVALID
from maxserve.core.interfaces.errors import MaxserveError, PluginError, cause

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher
    from maxserve.core.interfaces.request import Constraint, ThoughtTokens

log = logging.getLogger("maxserve.engine")

THREADS = 2  # for quick constraints, and as many for those that take longer, which hold up only each other
STACK = 16 * 1024**2  # bytes of each: several times as much as the process had that tried the constraint before


class Waiting(msgspec.Struct, frozen=True):
    sequence: Sequence
    matcher: Future[Matcher]


def _no_backend(name: str, *_: object) -> NoReturn:
    raise PluginError(f"no grammar back end {name!r} can be built: this engine has none")


class GrammarManager:
    """Makes grammars. `compilers` gives a back end's compiler by name, and may take its time at the first call.

    `with_thoughts` gives, by the name of a back end, its matcher, thoughts and ends, the matcher for both. `wake` is
    called, from another thread, when a matcher is ready.
    """

    def __init__(
        self,
        compilers: Callable[[str], GrammarCompiler] = _no_backend,
        ends: tuple[int, ...] = (),
        vocab_size: int = 0,
        with_thoughts: Callable[[str, Matcher, ThoughtTokens, tuple[int, ...]], Matcher] = _no_backend,
    ) -> None:
        self._compilers = compilers
        self._with_thoughts = with_thoughts
        self._ends = ends
        self._words = -(-vocab_size // WORD)
        self._threads: dict[bool, ThreadPoolExecutor] = {}  # by whether what they do takes long
        self._waiting: dict[str, Waiting] = {}
        self._ready = threading.Event()
        self.wake: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, id: str) -> bool:
        return id in self._waiting

    @property
    def ready(self) -> bool:
        """Whether `collect` has something."""
        return self._ready.is_set()

    def prepare(self, name: str) -> None:
        """Has the compiler of a back end made that will be wanted soon; returns at once."""
        self._put(lambda: self._compilers(name), slow=True)

    def begin(self, sequence: Sequence, constraint: Constraint) -> None:
        """Starts to make the matcher of a sequence, which `collect` gives back."""
        future = self._put(lambda: self._make(constraint), slow=constraint.slow)
        self._waiting[sequence.id] = Waiting(sequence, future)
        future.add_done_callback(self._wake)

    def drop(self, id: str) -> Sequence | None:
        """Forgets who waits. What has not begun is never made; what has takes as long as it did when it was tried."""
        waiting = self._waiting.pop(id, None)
        if waiting is None:
            return None
        waiting.matcher.cancel()
        return waiting.sequence

    def collect(self) -> list[tuple[Sequence, str | None]]:
        """Those who wait no longer, with their grammars, or with why there is none."""
        self._ready.clear()
        done = [waiting for waiting in self._waiting.values() if waiting.matcher.done()]
        found: list[tuple[Sequence, str | None]] = []
        for waiting in done:
            del self._waiting[waiting.sequence.id]
            found.append((waiting.sequence, self._settle(waiting)))
        return found

    def _settle(self, waiting: Waiting) -> str | None:
        sequence, error = waiting.sequence, waiting.matcher.exception()
        if error is not None:
            if not isinstance(error, MaxserveError):
                log.error("a grammar could not be compiled", exc_info=error)
            return f"the grammar could not be compiled: {cause(error)}"
        ignores_eos = sequence.request.params.ignore_eos
        sequence.grammar = GrammarState(waiting.matcher.result(), self._ends, self._words, keeps_on=ignores_eos)
        return None

    def wait(self, seconds: float) -> None:
        """Sleeps until a matcher is ready, or that long."""
        self._ready.wait(seconds)

    def close(self) -> None:
        self.wake = None
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def _make(self, constraint: Constraint) -> Matcher:
        matcher = self._compilers(constraint.backend).compile(constraint.kind, constraint.text)()
        if constraint.thoughts is None:
            return matcher
        return self._with_thoughts(constraint.backend, matcher, constraint.thoughts, self._ends)

    def _put(self, work: Callable[[], object], *, slow: bool) -> Future[Matcher]:
        if slow not in self._threads:
            name = "maxserve-grammar-slow" if slow else "maxserve-grammar"
            self._threads[slow] = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        before = threading.stack_size(STACK)
        try:
            return self._threads[slow].submit(work)  # type: ignore[arg-type]
        finally:
            threading.stack_size(before)

    def _wake(self, future: Future[Matcher]) -> None:
        if not future.cancelled():
            self._ready.set()
            if self.wake is not None:
                self.wake()


class Mask:
    """Allows tokens twice: before the transforms, so that top-k and the like choose among the allowed ones, and after
    them, so that none can bring back what is not allowed.
    """

    def __init__(self, rows: torch.Tensor, packed: torch.Tensor, table: torch.Tensor, *, all_rows: bool) -> None:
        self._rows = rows  # [C] int64, indices of the constrained rows
        self._packed = packed  # [C, words] int32
        self._table = table  # see `bars_of_bytes`
        self._all_rows = all_rows
        self._bars: torch.Tensor | None = None

    def likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest token of each row of logits that were masked, for where transforms leave nothing else."""
        best, tokens = logits.max(dim=-1)
        return torch.where(best.isfinite(), tokens, INVALID)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocab] with -inf for what is not allowed; in place."""
        bars = self._unpacked(logits.shape[-1])
        return logits.add_(bars) if self._all_rows else logits.index_add_(0, self._rows, bars)

    def settle(self, tokens: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
        """`tokens` with those of `fallback` where transforms left a constrained row nothing: the grammar wins."""
        fallback_here = torch.full_like(tokens, INVALID)
        fallback_here[self._rows] = fallback[self._rows]
        return torch.where(tokens < 0, fallback_here, tokens)

    def _unpacked(self, vocab: int) -> torch.Tensor:
        """What to add to the logits: 0 or -inf, [C, vocab]. On a CPU that is several times faster than filling."""
        if self._bars is None:
            bars = self._table.index_select(0, self._packed.view(torch.uint8).flatten().int())
            self._bars = bars.view(len(self._rows), -1)[:, :vocab]
        return self._bars


class Masks:
    """Fills the masks of steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._table = bars_of_bytes().to(device)

    def of(
        self, grammars: Mapping[int, GrammarState], rows: int, drafts: Mapping[int, int] | None = None
    ) -> Mask | None:
        """What the grammars allow next, of so many rows those that have one, by row; None when none has.

        `drafts` are the tokens that lead to a row from the one before it, by the rows for which there is one.
        """
        if not grammars:
            return None
        words = next(iter(grammars.values())).words
        packed: NDArray[np.int32] = np.zeros((len(grammars), words), dtype=np.int32)
        if drafts is None:
            for line, grammar in zip(packed, grammars.values(), strict=True):
                grammar.fill(line)
        else:
            self._fill_along(packed, grammars, drafts)
        return Mask(
            torch.tensor(list(grammars), device=self._device),
            torch.from_numpy(packed).to(self._device),
            self._table,
            all_rows=len(grammars) == rows,
        )

    def _fill_along(
        self, packed: NDArray[np.int32], grammars: Mapping[int, GrammarState], drafts: Mapping[int, int]
    ) -> None:
        """Fills the lines of rows that follow each other by drafts; nothing may follow one that ends its text."""
        goes_on = True
        for line, (row, grammar) in zip(packed, grammars.items(), strict=True):
            if row not in drafts:
                grammar.rewind()
            goes_on = row not in drafts or (goes_on and grammar.follow(drafts[row]))
            if goes_on:
                grammar.fill(line)
            else:
                line[:] = -1  # the row stands for nothing
        for grammar in grammars.values():
            grammar.rewind()


def bars_of_bytes() -> torch.Tensor:
    """For each value of a byte of a mask, what its eight tokens' logits have added: 0 or -inf, [256, 8]."""
    allowed = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return torch.zeros(256, 8).masked_fill_(allowed == 0, -torch.inf)
