"""The next step is launched before this one's tokens are known (`--enable-overlap-scheduler`).

        host    │ draw n: prepare │ plan n+1, build it │ take n's tokens: ends, pages, outputs │ draw n+1: prepare …
        device  │ … forward n          │ draw n │ forward n+1 (its input ids from draw n) …

Whatever the device does for a step is work that is put on a lane, which does it in order. Sampling is prepared when
all tokens before are known to the host, so that penalties and the like are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from maxserve.core.engine.inputs import Unknown

if TYPE_CHECKING:
    from maxserve.core.engine.draw import Draw, Pipeline
    from maxserve.core.engine.flight import Flight
    from maxserve.core.engine.inputs import InputsBuilder
    from maxserve.core.engine.logprobs import PromptScores, Scores
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.runner import Runner

T = TypeVar("T")


class Lane(Protocol):
    """Does what it is given one after another, beside its owner, and keeps errors for whoever asks for the result."""

    def put(self, work: Callable[[], T]) -> Future[T]: ...

    def settle(self) -> None:
        """Returns when nothing that was put here can touch memory that is handed out from now on."""
        ...

    def close(self) -> None: ...


class ThreadLane:
    """For devices that are the CPU itself: one thread, which runs while torch or the owner lets go of Python's lock."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="maxserve-device")

    def put(self, work: Callable[[], T]) -> Future[T]:
        return self._thread.submit(work)

    def settle(self) -> None:
        self._thread.submit(_nothing).result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)


class StreamLane:
    """For devices with a queue of their own: calls return at once, and the queue keeps the order."""

    def put(self, work: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        return done

    def settle(self) -> None:
        """What touches memory later is queued later."""

    def close(self) -> None:
        pass


def lane_for(device: torch.device) -> Lane:
    return ThreadLane() if device.type == "cpu" else StreamLane()


def _nothing() -> None:
    pass


class Aloft:
    """What the lane has of one flight."""

    __slots__ = ("draw", "drawn", "host", "logits", "ready", "scores")

    def __init__(self, logits: Future[torch.Tensor | None]) -> None:
        self.logits = logits
        self.drawn: Future[torch.Tensor] | None = None
        self.draw: Draw | None = None
        self.scores: Scores | None = None  # the wanted logprobs, likewise
        self.host: torch.Tensor | None = None  # the drawn tokens once `ready` has come
        self.ready: torch.cuda.Event | None = None


class Overlap:
    """Runs flights on a lane; at most one is aloft when the next takes off. One thread owns it."""

    def __init__(self, lane: Lane, builder: InputsBuilder, runner: Runner, pipeline: Pipeline) -> None:
        self.lane = lane
        self._builder = builder
        self._runner = runner
        self._pipeline = pipeline
        self._aloft: dict[int, Aloft] = {}

    def launch(self, flight: Flight, before: Flight | None) -> None:
        """Puts the forward pass on the lane; call it before the flight takes off. `before` is the flight aloft."""
        inputs, unknown = self._builder.build(flight.step), Unknown(flight.step)
        aloft = self._aloft.get(before.number) if before is not None else None
        self._aloft[flight.number] = Aloft(self.lane.put(lambda: self._forward(inputs, unknown, aloft, flight.prompts)))

    def draw(self, flight: Flight) -> None:
        """Prepares the draw from what is known now, and puts it on the lane."""
        aloft = self._aloft.get(flight.number)
        if aloft is None or not flight.drawing:
            return
        draw = self._pipeline.prepare(flight.drawing)
        aloft.draw = draw
        aloft.drawn = self.lane.put(lambda: _choose(draw, aloft))

    def finish(self, flight: Flight) -> None:
        """Waits for the flight's tokens; raises what went wrong on the lane."""
        aloft = self._aloft.pop(flight.number, None)
        if aloft is None:
            return
        aloft.logits.result()
        if aloft.drawn is None:
            return
        aloft.drawn.result()
        if aloft.ready is not None:
            aloft.ready.synchronize()
        assert aloft.host is not None
        assert aloft.draw is not None
        flight.logprobs = aloft.draw.read(aloft.scores)
        flight.tokens = aloft.host.tolist()
        flight.fail(aloft.draw.faults() | self._observe(flight))

    def _observe(self, flight: Flight) -> dict[Sequence, str]:
        """Transforms hear of tokens that somebody gets; those of a step too many are nobody's. Returns their faults."""
        heard = [(s, t) for s, t in zip(flight.drawing, flight.tokens, strict=True) if s.alive]
        return self._pipeline.observe([s for s, _ in heard], [t for _, t in heard])

    def _forward(
        self, inputs: StepInputs, unknown: Unknown, before: Aloft | None, prompts: PromptScores | None
    ) -> torch.Tensor | None:
        if before is not None and before.drawn is not None and before.drawn.exception() is None:
            unknown.put(before.drawn.result(), inputs.input_ids)
        output = self._runner.run(inputs)
        if prompts is not None:
            prompts.look(output.hidden, self._runner.logits)
        return output.logits


def _choose(draw: Draw, aloft: Aloft) -> torch.Tensor:
    """Draws, and sends the tokens on their way to the host before the next forward pass stands in line."""
    logits = aloft.logits.result()
    assert logits is not None, "rows were to be drawn, but the model gave no logits"
    tokens, aloft.scores = draw.choose(logits)
    if tokens.device.type == "cuda":
        aloft.host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        aloft.host.copy_(tokens, non_blocking=True)
        aloft.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        aloft.ready.record()
    else:
        aloft.host = tokens
    return tokens
