"""Engines for tests of processes: they count instead of running a model. Workers import this by "stub_engine:NAME"."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import AdapterChange, Output, Request
from maxserve.core.loading.tasks import OwnContext

SLOW = 1  # first prompt tokens that make an engine behave in a certain way
FATAL = 2
REFUSED = 3
RAISING = 4
RESTING = 5


class CountingEngine:
    """Gives every request the tokens 0, 1, 2 … up to its max_tokens, one a step."""

    def __init__(self) -> None:
        self.empty_steps = False
        self._requests: dict[str, Request] = {}
        self._given: dict[str, int] = {}
        self._aborted = 0
        self._resets = 0
        self.info = ModelInfo(
            name="counter",
            path="",
            architecture="Counter",
            max_length=64,
            vocab_size=32,
            eos_token_ids=(),
            dtype="float32",
            device="cpu",
            parameters=0,
            max_batch_size=8,
            created=int(time.time()),
        )

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    @property
    def pause(self) -> float | None:
        resting = any(request.prompt[0] == RESTING for request in self._requests.values())
        return 60.0 if resting else 0.0 if self.busy else None

    def add(self, request: Request) -> None:
        if request.prompt[0] == REFUSED:
            raise RequestError("refused", param="prompt", code="no", status=422)
        self._requests[request.id] = request
        self._given[request.id] = 0

    def abort(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._aborted += self._requests.pop(id, None) is not None

    def serve_grammars(self, wake: Callable[[], None]) -> None:
        pass

    def step(self) -> list[Output]:
        return [self._advance(r) for r in list(self._requests.values()) if r.prompt[0] != RESTING]

    def _advance(self, request: Request) -> Output:
        kind = request.prompt[0]
        if kind == FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == RAISING:
            raise RuntimeError("the engine broke")
        if kind == SLOW:
            time.sleep(0.01)
        token = self._given[request.id]
        self._given[request.id] += 1
        last = token + 1 == request.params.max_tokens
        if last:
            del self._requests[request.id]
        return Output(id=request.id, tokens=(token,), finish="length" if last else None)

    def stats(self) -> StepStats:
        """Counters that have no place of their own are `preemptions` (aborts) and `prefix_hits` (resets)."""
        return StepStats(
            time=time.time(),
            running=len(self._requests),
            waiting=0,
            cache=CacheSizes(total=1, free=1, cached=0, owned=0),
            preemptions=self._aborted,
            prefix_hits=self._resets,
        )

    def reset_prefix_cache(self) -> int:
        self._resets += 1
        return 0

    def close(self) -> None:
        pass


class DeadlyAdaptersEngine(CountingEngine):
    """Dies at once of any adapter it is to load."""

    adapters: Mapping[str, str] = {}

    def change_adapter(self, change: AdapterChange) -> None:
        if change.action == "load":
            os.kill(os.getpid(), signal.SIGKILL)

    def rejected_changes(self) -> Sequence[tuple[str, RequestError]]:
        return ()


def build(context: OwnContext) -> CountingEngine:
    context.progress.phase("counting")
    context.progress.advance(0.5)
    return CountingEngine()


def build_changing(context: OwnContext) -> CountingEngine:
    """Another length in each worker."""
    engine = CountingEngine()
    engine.info = replace(engine.info, max_length=os.getpid())
    return engine


def build_with_deadly_adapters(context: OwnContext) -> DeadlyAdaptersEngine:
    return DeadlyAdaptersEngine()


def build_unfit(context: OwnContext) -> CountingEngine:
    raise ModelError("the model does not fit")


def build_broken(context: OwnContext) -> CountingEngine:
    raise ZeroDivisionError("a bug")


def build_dying(context: OwnContext) -> CountingEngine:
    os._exit(7)


def build_never(context: OwnContext) -> CountingEngine:
    context.progress.phase("waiting for ever")
    time.sleep(600)
    raise AssertionError("a test waited ten minutes")
