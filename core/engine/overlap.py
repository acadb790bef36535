"""The next step is launched before this one's tokens are known (`--enable-overlap-scheduler`).

        host    │ draw n: prepare │ plan n+1, build it │ take n's tokens: ends, pages, outputs │ draw n+1: prepare …
        device  │ … forward n          │ draw n │ forward n+1 (its input ids from draw n) …

Whatever the device does for a step is work that is put on a device queue, which does it in order. Sampling is prepared
when all tokens before are known to the host, so that penalties and the like are exact.

Where drafts may follow a step, the next is planned when its tokens and the drafts are known: the device waits for
that, but not for what becomes of the outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from maxserve.core.engine.inputs import Unknown

if TYPE_CHECKING:
    from maxserve.core.engine.draw import Draw, Pipeline
    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.engine.inputs import InputsBuilder
    from maxserve.core.engine.logprobs import PromptScores, Scores
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.runner import ModelOutput, Runner

T = TypeVar("T")


class DeviceQueue(Protocol):
    """Does what it is given one after another, beside its owner, and keeps errors until the result is asked for."""

    def put(self, work: Callable[[], T]) -> Future[T]: ...

    def settle(self) -> None:
        """Returns when nothing that was put here can touch memory that is handed out from now on."""

    def close(self) -> None: ...


class ThreadQueue:
    """For devices that are the CPU itself: one thread, which runs while torch or the owner lets go of Python's lock."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="maxserve-device")

    def put(self, work: Callable[[], T]) -> Future[T]:
        return self._thread.submit(work)

    def settle(self) -> None:
        self._thread.submit(_nothing).result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)


class StreamQueue:
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


def device_queue_for(device: torch.device) -> DeviceQueue:
    return ThreadQueue() if device.type == "cpu" else StreamQueue()


def _nothing() -> None:
    pass


class DeviceWork:
    """What the device queue has of one step in flight."""

    __slots__ = ("begun", "draw", "drawn", "host", "inputs", "logits", "output", "ready", "scores")

    logits: Future[torch.Tensor | None]

    def __init__(self, begun: float, inputs: StepInputs) -> None:
        self.begun = begun
        self.inputs = inputs
        self.output: ModelOutput | None = None  # once there are logits, for who drafts
        self.drawn: Future[torch.Tensor] | None = None
        self.draw: Draw | None = None
        self.scores: Scores | None = None  # the wanted logprobs, likewise
        self.host: torch.Tensor | None = None  # the drawn tokens once `ready` has come
        self.ready: torch.cuda.Event | None = None


class Overlap:
    """Runs steps on a device queue; at most one is in flight when the next is launched. One thread owns it.

    `keeps` says whether what the model gave of a step beside logits is wanted when that is finished.
    """

    def __init__(
        self,
        device_queue: DeviceQueue,
        builder: InputsBuilder,
        runner: Runner,
        pipeline: Pipeline,
        *,
        keeps: bool = False,
    ) -> None:
        self.device_queue = device_queue
        self._keeps = keeps
        self._builder = builder
        self._runner = runner
        self._pipeline = pipeline
        self._in_flight: dict[int, DeviceWork] = {}
        self._finished = 0.0  # when the last one was, and what it took
        self._seconds = 0.0

    def launch(self, in_flight: InFlightStep, before: InFlightStep | None, begun: float) -> None:
        """Puts the forward pass on the device queue, before it counts as launched.

        `before` is the step in flight, if there is one; `begun` is when the planning of this one was.
        """
        inputs, unknown = self._builder.build(in_flight.step), Unknown(in_flight.step)
        last = self._in_flight.get(before.number) if before is not None else None
        work = DeviceWork(begun, inputs)
        work.logits = self.device_queue.put(lambda: self._forward(work, unknown, last, in_flight.prompts))
        self._in_flight[in_flight.number] = work

    def draw(self, in_flight: InFlightStep) -> None:
        """Prepares the draw from what is known now, and puts it on the device queue; `finish` verifies drafts."""
        work = self._in_flight.get(in_flight.number)
        if work is None or not in_flight.drawing or in_flight.step.drafts is not None:
            return
        draw = self._pipeline.prepare(in_flight.drawing)
        work.draw = draw
        work.drawn = self.device_queue.put(lambda: _choose(draw, work))

    def finish(self, in_flight: InFlightStep) -> None:
        """Waits for the step's tokens; raises what went wrong on the device queue."""
        work = self._in_flight.pop(in_flight.number, None)
        if work is None:
            return
        logits = work.logits.result()
        if in_flight.step.drafts is not None:
            assert logits is not None, "drafts were to be verified, but the model gave no logits"
            self._pipeline.decide(logits, in_flight)
        elif work.drawn is not None:
            self._read(in_flight, work, work.drawn)
        in_flight.inputs, in_flight.output = work.inputs, work.output
        now = time.perf_counter()
        self._seconds, self._finished = now - max(work.begun, self._finished), now

    def _read(self, in_flight: InFlightStep, work: DeviceWork, drawn: Future[torch.Tensor]) -> None:
        drawn.result()
        if work.ready is not None:
            work.ready.synchronize()
        assert work.host is not None
        assert work.draw is not None
        in_flight.logprobs = work.draw.read(work.scores)
        in_flight.tokens = work.host.numpy()
        in_flight.fail(work.draw.faults() | self._observe(in_flight))

    @property
    def seconds(self) -> float:
        """What the step that was finished last took by itself."""
        return self._seconds

    def _observe(self, in_flight: InFlightStep) -> dict[Sequence, str]:
        """Transforms hear of tokens that reach a request; those of a step too many do not. Returns their faults."""
        alive = in_flight.step.ledger.alive[in_flight.slots].nonzero()[0]
        drawing = in_flight.drawing
        heard = drawing if len(alive) == len(drawing) else [drawing[i] for i in alive.tolist()]
        return self._pipeline.observe(heard, in_flight.tokens[alive])

    def _forward(
        self, work: DeviceWork, unknown: Unknown, before: DeviceWork | None, prompts: PromptScores | None
    ) -> torch.Tensor | None:
        if before is not None and before.drawn is not None and before.drawn.exception() is None:
            unknown.put(before.drawn.result(), work.inputs.input_ids)
        output = self._runner.run(work.inputs)
        if prompts is not None:
            prompts.look(output.hidden, self._runner.logits)
        if self._keeps:
            work.output = output
        return output.logits


def _choose(draw: Draw, work: DeviceWork) -> torch.Tensor:
    """Draws, and sends the tokens on their way to the host before the next forward pass stands in line."""
    logits = work.logits.result()
    assert logits is not None, "rows were to be drawn, but the model gave no logits"
    tokens, work.scores = draw.choose(logits)
    if tokens.device.type == "cuda":
        work.host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        work.host.copy_(tokens, non_blocking=True)
        work.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        work.ready.record()
    else:
        work.host = tokens
    return tokens
