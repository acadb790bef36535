"""The engine of models that encode texts: no cache and no next token, a step is a batch of whole texts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from maxserve.interfaces.cache import CacheSizes
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.observer import StepStats
from maxserve.interfaces.request import AdapterChange, Encoded, EncodeRequest, Request
from maxserve.layers import TextContext, TextInputs
from maxserve.loading import Counters, validate_ids
from maxserve.plugins.embeddings.encoder_input import validate_text
from maxserve.plugins.embeddings.pooling import Spans
from maxserve.plugins.embeddings.queue import EncodeQueue, Taken
from maxserve.plugins.embeddings.seats import Seats

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.adapter import AdapterPool
    from maxserve.interfaces.engine import ModelInfo
    from maxserve.layers import Encoder, TextAttention

log = logging.getLogger("maxserve.engine")


class Finish(Protocol):
    """Makes of the vectors of tokens those of texts, or scores, in two parts: a request may leave the second out."""

    def pool(self, hidden: Tensor, spans: Spans) -> Tensor:
        """[T, dim] to [B, size], in float32."""
        ...

    def activate(self, pooled: Tensor) -> Tensor:
        """The last function of the model, [B, size] to [B, size]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderParts:
    """What the engine is put together from; see assemble_encoder.py.

    `finish` makes of the vectors of tokens those of texts, or scores; None leaves them as they are. A step has up to
    `max_tokens` tokens and `max_texts` texts.
    """

    info: ModelInfo
    model: Encoder
    attention: TextAttention
    finish: Finish | None
    device: torch.device
    max_tokens: int
    max_texts: int
    failure_percent: float = 0.0
    random: random.Random
    adapters: AdapterPool | None = None


class EncoderEngine:
    """Encodes the texts of requests, a step at a time. One thread owns it."""

    empty_steps = False

    def __init__(self, parts: EncoderParts) -> None:
        self.info = parts.info
        self._parts = parts
        self._queue = EncodeQueue()
        self._counters = Counters()
        self._pool = parts.adapters
        self._seats = Seats(parts.adapters)
        self.simulates_failures = True

    # --- requests come and go -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return len(self._queue) > 0 or (self._pool is not None and self._pool.changing)

    @property
    def pause(self) -> float | None:
        """A step is of use whenever there is a request, or something to say of adapters."""
        return 0.0 if len(self._queue) or (self._pool is not None and self._pool.reports) else None

    def add(self, request: Request | EncodeRequest) -> None:
        """Queues a request; RequestError when it can never be served."""
        if isinstance(request, Request):
            raise RequestError(f"{self.info.name!r} encodes texts and generates none", code="unsupported_model")
        if request.id in self._queue:
            raise RequestError(f"request id {request.id!r} is in use; ids must be unique")
        for index, text in enumerate(request.texts):
            validate_text(text, self.info, f"input[{index}]")  # as an assertion: plugins may send requests of their own
            validate_ids(text, self.info, f"input[{index}]")
        if not request.texts:
            raise RequestError("there is no text to encode", param="input")
        adapter = None
        if request.adapter:
            adapter = self._adapters().named(request.adapter)
            assert adapter is not None, "it has a name"
            adapter.requests += 1
        self._queue.add(request, adapter)

    def abort(self, ids: Iterable[str]) -> None:
        """Forgets requests; unknown ids are those that ended meanwhile."""
        for id in ids:
            self._drop(id)

    def _drop(self, id: str) -> None:
        work = self._queue.drop(id)
        if work is not None and work.adapter is not None:
            self._adapters().end(work.adapter)

    def _adapters(self) -> AdapterPool:
        if self._pool is None:
            raise RequestError("this server serves no adapters; start it with --enable-lora", param="model")
        return self._pool

    @property
    def adapters(self) -> Mapping[str, str]:
        """Where each of those that are served now was found, by its name."""
        return {} if self._pool is None else self._pool.sources

    def change_adapter(self, change: AdapterChange) -> None:
        """Begins to load, replace or unload one; RequestError if that cannot be. A later step says that it is done."""
        self._adapters().change(change)

    def rejected_changes(self) -> list[tuple[str, RequestError]]:
        """Which of those that were begun could not be made, and why; each of them once."""
        if self._pool is None:
            return []
        found, self._pool.rejected = self._pool.rejected, []
        return found

    def reset_prefix_cache(self) -> int:
        """There is none."""
        return 0

    def serve_grammars(self, wake: Callable[[], None]) -> None:
        """Nothing is generated here, so nothing is held to a grammar; adapters are read beside the loop."""
        if self._pool is not None:
            self._pool.wake = wake

    def reset_counters(self) -> None:
        """Starts counting anew, after a warm-up that no client asked for."""
        self._counters = Counters()

    def close(self) -> None:
        """Ends what runs beside the caller's thread: adapters that are being read."""
        if self._pool is not None:
            self._pool.close()

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self) -> list[Encoded]:
        """Encodes the next batch. A failure in it ends the requests that have texts in it, and no others."""
        changed = self._changed()
        taken = self._queue.take(self._parts.max_tokens, self._parts.max_texts, self._seats.admits)
        try:
            return [*changed, *(self._end(id, error) for id, error in self._seats.failed.items()), *self._step(taken)]
        finally:
            self._seats.clear()

    def _changed(self) -> list[Encoded]:
        """What there is to say of changes of adapters that were begun."""
        if self._pool is None or not self._pool.reports:
            return []
        self._pool.collect()
        done, self._pool.done = self._pool.done, []
        return [Encoded(id=id, finish="stop") for id in done]

    def _step(self, taken: Sequence[Taken]) -> list[Encoded]:
        if not taken:
            return []
        self._counters.steps += 1
        tokens = sum(len(each.tokens) for each in taken)
        self._counters.prompt_tokens += tokens
        self._counters.iteration_tokens.count(tokens)
        self._counters.batch_sizes.count(len(taken))
        try:
            self._maybe_fail()
            rows = self._encode(taken)
        except Exception as error:
            log.error("a batch of %d texts failed", len(taken), exc_info=error)
            return [self._end(id, f"{type(error).__name__}: {error}") for id in _by_request(taken)]
        return [self._given(id, indices, taken, rows) for id, indices in _by_request(taken).items()]

    def next_outputs(self) -> list[Encoded]:
        return self.step()

    @torch.inference_mode()
    def _encode(self, taken: Sequence[Taken]) -> list[NDArray[np.float32]]:
        """The vector, or the vectors [tokens, size], of each text."""
        parts, slots = self._parts, self._seats.slots(taken)
        inputs = text_inputs(taken, parts.device)
        parts.attention.begin(inputs)
        self._adapt(None if slots is None else np.repeat(slots, inputs.seq_lens))
        hidden = parts.model.forward(TextContext(inputs=inputs, attention=parts.attention))
        if parts.finish is None:
            return np.split(_numbers(hidden), inputs.query_start[1:-1])
        prefixes = np.array([each.work.request.prompt_prefix for each in taken], dtype=np.int64)
        self._adapt(slots)  # a head that scores has a row for each text
        pooled = parts.finish.pool(hidden, Spans(inputs.query_start, prefixes))
        activated = np.array([each.work.request.activation for each in taken])
        if activated.all():
            return list(_numbers(parts.finish.activate(pooled)))
        wanted = torch.from_numpy(activated).to(pooled.device)[:, None]
        return list(_numbers(torch.where(wanted, parts.finish.activate(pooled), pooled)))

    def _adapt(self, slots: NDArray[np.int64] | None) -> None:
        """Has the model's projections correct the rows that come, of which these are the slots."""
        if self._pool is not None:
            self._pool.adapt_rows(slots, self._parts.device)

    def _given(
        self, id: str, numbers: Sequence[int], taken: Sequence[Taken], rows: Sequence[NDArray[np.float32]]
    ) -> Encoded:
        """What the step gave a request, whose texts have these numbers in it."""
        own = [rows[number] for number in numbers]
        over = not taken[numbers[0]].work.left
        if over:
            self._drop(id)
        return Encoded(
            id=id,
            indices=tuple(taken[number].index for number in numbers),
            rows=() if self._parts.finish is not None else tuple(map(len, own)),
            data=b"".join(each.tobytes() for each in own),
            finish="stop" if over else None,
        )

    def _end(self, id: str, error: str) -> Encoded:
        self._drop(id)
        return Encoded(id=id, finish="error", error=error)

    def _maybe_fail(self) -> None:
        """`--sim-failure`: lets a share of the batches fail, so that clients can be tried against it."""
        if self.simulates_failures and self._parts.random.random() * 100 < self._parts.failure_percent:
            raise RuntimeError("simulated failure (--sim-failure)")

    # --- what others may know -----------------------------------------------------------------------------------

    def stats(self) -> StepStats:
        begun = sum(work.begun for work in self._queue)
        return StepStats(
            time=time.time(),
            running=begun,
            waiting=len(self._queue) - begun,
            cache=CacheSizes(total=0, free=0, cached=0, owned=0),
            prompt_tokens=self._counters.prompt_tokens,
            steps=self._counters.steps,
            iteration_tokens=self._counters.iteration_tokens.distribution(),
            batch_sizes=self._counters.batch_sizes.distribution(),
            adapters=self._use(),
            adapter_slots=0 if self._pool is None else self._pool.slots,
            adapters_loaded=0 if self._pool is None else len(self._pool.sources),
        )

    def _use(self) -> tuple[tuple[str, int, int], ...]:
        """Of each adapter with requests its name, how many have begun and how many wait."""
        found: dict[str, list[int]] = {}
        for work in self._queue:
            if work.adapter is not None:
                found.setdefault(work.adapter.name, [0, 0])[not work.begun] += 1
        return tuple((name, begun, waiting) for name, (begun, waiting) in found.items())


def text_inputs(taken: Sequence[Taken], device: torch.device) -> TextInputs:
    """The inputs of a step of these texts."""
    lengths = np.array([len(each.tokens) for each in taken], dtype=np.int64)
    starts = np.zeros(len(taken) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    ids = np.fromiter((token for each in taken for token in each.tokens), dtype=np.int64, count=int(starts[-1]))
    pair_starts = np.repeat([each.second or len(each.tokens) for each in taken], lengths)
    return TextInputs(
        input_ids=torch.from_numpy(ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        slot_mapping=torch.empty(0, dtype=torch.int64, device=device),
        query_start=starts,
        seq_lens=lengths,
        prompt_lens=lengths,
        block_tables=np.empty((len(taken), 0), dtype=np.int32),
        logit_rows=torch.empty(0, dtype=torch.int64, device=device),
        token_types=torch.from_numpy((positions >= pair_starts).astype(np.int64)).to(device),
    )


def _by_request(taken: Sequence[Taken]) -> dict[str, list[int]]:
    """Which numbers of the step belong to each request."""
    numbers: dict[str, list[int]] = {}
    for number, each in enumerate(taken):
        numbers.setdefault(each.work.request.id, []).append(number)
    return numbers


def _numbers(vectors: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = vectors.float().cpu().numpy()
    return found
