"""The process that tries constraints out: `python -m maxserve.plugins.api.constraints.process`.

It builds the compilers once and forks: a crash, a runaway or a hoard of memory ends a fork of its own, and
the next one is there in milliseconds. A fork serves one constraint after the other, since its first one costs it
several times as much (pages are copied when they are touched), and is replaced after LIFE of them. It has less stack
than the threads of a worker, which compile the constraint after it: what is taken here does not break there. All end
when standard input does.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np

from maxserve.interfaces.errors import GrammarUnsupported, MaxserveError
from maxserve.interfaces.grammar import GrammarContext
from maxserve.loading import Compilers
from maxserve.plugins.api.constraints.messages import Begin, Frames, Outcome, Signal, ToTrials, Try, packed, refusal
from maxserve.registry import restored
from maxserve.runtime import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from maxserve.interfaces.grammar import GrammarCompiler, Matcher

SECONDS = 30  # of processor time for one constraint
MEMORY = 1536 * 1024**2  # bytes of address space, beside what the process had when it was forked
STACK = 4 * 1024**2  # bytes; the threads of workers have `core.engine.grammar.STACK`, several times as much
BREATH = 0.003  # seconds for which a text is tried beyond its first token
STEPS = 32  # tokens of it at most
READY = 2  # forks that wait for a constraint once there was one: each costs some 25 MB
LIFE = 100  # constraints of a fork
WARMING = '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}, "required": ["a"]}'


def limits() -> str:
    """The limits of one constraint, as an error message names them."""
    return f"{SECONDS} s of processor time, {MEMORY // 1024**2} MiB of memory and {STACK // 1024**2} MiB of stack"


class _Fork:
    """A process that tries constraints, seen from its parent; `job` is the id of the one it is at."""

    def __init__(self, pid: int, jobs: int, outcomes: int) -> None:
        self.pid = pid
        self.outcomes = outcomes
        self.frames = Frames()
        self.job: int | None = None
        self.served = 0
        self.retired = False
        self._jobs = jobs

    def give(self, job: Try) -> None:
        self.job = job.id
        self.served += 1
        with suppress(BrokenPipeError):  # it ended, which is heard of
            _write(self._jobs, packed(job))

    def retire(self) -> None:
        """Lets it end when it has done what it is at."""
        if not self.retired:
            self.retired = True
            os.close(self._jobs)


class Trials:
    """Forks for constraints, which come over standard input, and tells what became of them at `output`."""

    def __init__(self, begin: Begin, output: int) -> None:
        self._output = output
        plugins = restored(begin.plugins)
        self._words, self._ends = -(-begin.vocab_size // 32), begin.eos_token_ids
        context = GrammarContext(
            sections=plugins.sections,
            vocabulary=begin.vocabulary,
            eos_token_ids=begin.eos_token_ids,
            vocab_size=begin.vocab_size,
            tokenizer_path=begin.tokenizer_path,
        )
        self._compilers = Compilers(plugins.components, lambda: context)
        self._forks: dict[int, _Fork] = {}  # by pipe
        self._preferred = begin.preferred
        if begin.preferred is not None:
            with suppress(MaxserveError):  # the request that asks for it gets
                self._build(begin.preferred)

    def run(self, frames: Frames, first: Iterable[ToTrials]) -> None:
        """Returns when standard input ends."""
        for message in first:
            self._handle(message)
        gc.freeze()  # collections would touch, and so copy, pages that forks share
        while True:
            ready, _, _ = select.select([0, *self._forks], [], [])
            for pipe in ready:
                if pipe:
                    self._hear(self._forks[pipe])
            if 0 in ready:
                data = os.read(0, 1 << 20)
                if not data:
                    return
                for body in frames.feed(data):
                    self._handle(msgspec.msgpack.decode(body, type=ToTrials))

    def _handle(self, message: ToTrials) -> None:
        match message:
            case Try():
                self._try(message)
            case Signal(id=id):
                for fork in self._forks.values():
                    if fork.job == id:
                        _send(fork.pid, message.signal)
                        fork.served = LIFE  # it yields to all others from now on

    def _try(self, job: Try) -> None:
        if self._compilers.built(job.backend) is None:
            try:
                self._build(job.backend)
            except MaxserveError as error:  # the model or the back end cannot do it at all
                self._tell(Outcome(id=job.id, refused=str(error)))
                return
            for fork in self._forks.values():  # they do not have it
                fork.retire()
        (self._idle() or [self._fork()])[0].give(job)

    def _build(self, backend: str) -> None:
        """Has a compiler for forks, with all imported that schemas need, which each of them would import."""
        compiler = self._compilers(backend)
        with suppress(MaxserveError):  # it takes no schemas
            compiler.check("json_schema", WARMING)

    def _idle(self) -> list[_Fork]:
        return [fork for fork in self._forks.values() if fork.job is None and not fork.retired]

    def _make_ready(self) -> None:
        """Has READY forks for what comes next, and no more."""
        idle = self._idle()
        for fork in idle[READY:]:
            fork.retire()
        for _ in range(READY - len(idle)):
            self._fork()

    def _fork(self) -> _Fork:
        (reading, jobs), (outcomes, writing) = os.pipe(), os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            for end in (jobs, outcomes):  # those of the parent: this one would never see the end of its own
                os.close(end)
            self._serve(reading, writing, parent)
        os.close(reading)
        os.close(writing)
        made = self._forks[outcomes] = _Fork(pid, jobs, outcomes)
        return made

    def _hear(self, fork: _Fork) -> None:
        data = os.read(fork.outcomes, 1 << 20)
        for body in fork.frames.feed(data):
            fork.job = None
            if fork.served >= LIFE:
                fork.retire()
            self._tell(msgspec.msgpack.decode(body, type=Outcome))
        if not data:
            fork.retire()
            os.close(fork.outcomes)
            del self._forks[fork.outcomes]
            _, status = os.waitpid(fork.pid, 0)
            if fork.job is not None:
                self._tell(msgspec.structs.replace(_of_status(status), id=fork.job))
        self._make_ready()

    def _tell(self, outcome: Outcome) -> None:
        _write(self._output, packed(outcome))

    # --- in a fork ----------------------------------------------------------------------------------------------

    def _serve(self, reading: int, writing: int, parent: int) -> NoReturn:
        """Tries what comes, and ends this process, whatever happens."""
        try:
            for fork in self._forks.values():
                fork.retire()
                os.close(fork.outcomes)
            os.close(self._output)
            _limit(parent)
            for job in self._jobs(reading):
                _lower(resource.RLIMIT_CPU, math.ceil(time.process_time()) + SECONDS)
                compiler = self._compilers(job.backend)
                outcome = attempt(compiler, job.kind, job.text, self._words, self._ends)
                _write(writing, packed(msgspec.structs.replace(outcome, id=job.id)))
        finally:
            os._exit(0)

    def _jobs(self, pipe: int) -> Iterator[Try]:
        frames = Frames()
        self._warm_up()
        while data := os.read(pipe, 1 << 20):
            for body in frames.feed(data):
                yield msgspec.msgpack.decode(body, type=Try)

    def _warm_up(self) -> None:
        """Touches what most constraints will need."""
        compiler = None if self._preferred is None else self._compilers.built(self._preferred)
        if compiler is not None:
            attempt(compiler, "json_schema", WARMING, self._words, self._ends)


def _limit(parent: int) -> None:
    """Takes away from this process what it could do to others, and ends it with its parent."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    end_with_parent(parent)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    _lower(resource.RLIMIT_AS, _address_space() + MEMORY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_STACK, STACK)


def _lower(limit: int, value: int) -> None:
    """Sets the limit that counts, within the one that cannot be raised again."""
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return 1024**3


def attempt(compiler: GrammarCompiler, kind: str, text: str, words: int, ends: Sequence[int]) -> Outcome:
    """What becomes of a constraint: compiled, and tried for a few tokens. It raises nothing."""
    start = time.process_time()
    try:
        outcome = _attempt(compiler, kind, text, words, ends)
    except GrammarUnsupported as error:
        outcome = refusal(error)
    except (MemoryError, RecursionError):
        outcome = _too_much()
    except BaseException as error:  # a panic of native code is no Exception
        outcome = Outcome(refused=f"the back end failed at it: {' '.join(str(error).split())[:300]}")
    return msgspec.structs.replace(outcome, seconds=time.process_time() - start)


def _attempt(compiler: GrammarCompiler, kind: str, text: str, words: int, ends: Sequence[int]) -> Outcome:
    prepared = compiler.check(kind, text)
    if prepared is not None:
        kind, text = prepared.kind, prepared.text
    matcher = compiler.compile(kind, text)()
    row = np.zeros(words, dtype=np.int32)
    matcher.fill(row)
    if not _without(row, ends).any():
        raise GrammarUnsupported("no text, or only the empty one, is valid", invalid=True)
    _walk(matcher, row, ends)
    return Outcome(kind=kind, text=text, warnings=() if prepared is None else prepared.warnings)


def _without(row: Any, ends: Sequence[int]) -> Any:
    bits = row.view(np.uint32)
    for id in ends:
        bits[id // 32] &= np.uint32(~(1 << (id % 32)) & 0xFFFFFFFF)
    return row


def _walk(matcher: Matcher, row: Any, ends: Sequence[int]) -> None:
    """Writes a text for a moment: what breaks a process while a matcher is followed shall break this one.

    A matcher that only fails, which ends no more than the request it belongs to, is let pass.
    """
    rng, until = np.random.default_rng(0), time.monotonic() + BREATH
    with suppress(Exception):
        for _ in range(STEPS):
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
            if not len(allowed) or matcher.finished() or time.monotonic() > until:
                return
            matcher.accept(int(rng.choice(allowed)))
            matcher.fill(row)
            _without(row, ends)


def _of_status(status: int) -> Outcome:
    """The outcome of a constraint whose process gave nothing."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome(refused=f"compiling it was ended; the limits are {limits()}")
    return _too_much()


def _too_much() -> Outcome:
    return Outcome(refused=f"compiling it takes more than {limits()} allow; make it smaller, or nest it less")


def _write(pipe: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(pipe, left) :]


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        if number == signal.SIGSTOP:  # what takes long runs beside all else from then on
            os.setpriority(os.PRIO_PROCESS, pid, 10)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    output = os.dup(1)
    os.dup2(2, 1)  # what plugins print shall not come among the messages
    frames = Frames()
    waiting: list[ToTrials] = []
    while not waiting:
        data = os.read(0, 1 << 20)
        if not data:
            return
        waiting += [msgspec.msgpack.decode(body, type=ToTrials) for body in frames.feed(data)]
    begin, *rest = waiting
    assert isinstance(begin, Begin)
    sys.path[:] = begin.search_path
    Trials(begin, output).run(frames, rest)


if __name__ == "__main__":
    main()
    os._exit(0)
