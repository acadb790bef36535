"""The EngineClient of the API process, over the messages of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any, Protocol

from maxserve.core.interfaces.errors import MaxserveError, QueueFullError, RequestError, WorkerDied
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
from maxserve.core.runtime import messages
from maxserve.core.runtime.adapter_changes import AdapterChanges

NO_WORKER = "no worker is running; it is being started anew"


class Channel(Protocol):
    """The way to the worker that serves now."""

    def send(self, message: messages.ToWorker) -> None: ...


class WorkerClient:
    """An EngineClient whose engine lives in a worker. One event loop owns it.

    `max_queue_size` bounds the requests that are open beyond those a batch holds. `served` counts the requests that
    came to their end, and `on_stats` is called with what the worker says of its state.
    """

    def __init__(self, *, max_queue_size: int | None = None) -> None:
        self.on_stats: Callable[[StepStats], None] = lambda stats: None
        self.served = 0
        self._max_queue_size = max_queue_size
        self._channel: Channel | None = None
        self._streams: dict[str, _Stream] = {}
        self._batch_size = 0
        self.adapters = AdapterChanges()

    @property
    def ready(self) -> bool:
        return self._channel is not None

    @property
    def capacity(self) -> int | None:
        """Requests that may be open at once: a batch and a queue; None when the queue has no limit."""
        return None if self._max_queue_size is None else self._batch_size + self._max_queue_size

    @property
    def open(self) -> int:
        """Requests that have not come to their end; every text to be encoded is one."""
        return sum(stream.weight for stream in self._streams.values())

    # --- for routes ---------------------------------------------------------------------------------------------

    def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """Outputs of a request as they come; closing the iterator early aborts it.

        QueueFullError, RequestError or WorkerDied at the first step; WorkerDied also later.
        """
        return self._answers(request.id, 1, messages.Submit(requests=(request,)), request.adapter)

    def encode(self, request: EncodeRequest) -> AsyncGenerator[Encoded, None]:
        """Vectors of texts as they come; otherwise like `generate`. Every text counts as a request that is open."""
        return self._answers(request.id, len(request.texts), messages.Encode(requests=(request,)), request.adapter)

    async def change_adapter(self, change: AdapterChange) -> None:
        """Returns when the worker has made it; RequestError if it cannot be made."""
        number = self.adapters.begin(change)
        try:
            async for _ in self._answers(change.id, 0, messages.ChangeAdapters(changes=(change,))):
                pass
        finally:
            self.adapters.end(number)
        self.adapters.made(number, change)

    async def _answers(
        self, id: str, weight: int, message: messages.ToWorker, adapter: str = ""
    ) -> AsyncGenerator[Any, None]:
        channel = self._admit(id, weight)
        stream = self._streams[id] = _Stream(weight, adapter)
        channel.send(message)
        try:
            while True:
                item = await stream.get()
                if isinstance(item, MaxserveError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            # Still listed: the worker runs it, or what it last sent was not delivered yet. Both are well aborted.
            if self._streams.get(id) is stream:
                del self._streams[id]
                channel.send(messages.Abort(ids=(id,)))

    def _admit(self, id: str, weight: int) -> Channel:
        if self._channel is None:
            raise WorkerDied(NO_WORKER)
        if id in self._streams:
            raise RequestError(f"request id {id!r} is in use; ids must be unique")
        if self.capacity is not None and self.open + weight > self.capacity:
            raise QueueFullError(
                f"{self._batch_size} requests run and {self._max_queue_size} wait, which is all this server takes "
                "(--max-batch-size, --max-queue-size); try again later"
            )
        return self._channel

    async def reset_prefix_cache(self) -> None:
        """Tells the worker to forget unused prefixes."""
        if self._channel is None:
            raise WorkerDied(NO_WORKER)
        self._channel.send(messages.ResetPrefixCache())

    # --- for the supervisor -------------------------------------------------------------------------------------

    def attach(self, channel: Channel, batch_size: int, adapters: Collection[str] = ()) -> None:
        """A worker that runs up to `batch_size` requests at once, with these adapters, is ready beyond `channel`."""
        self.adapters.worker_ready(adapters)
        self._channel = channel
        self._batch_size = batch_size

    def stop(self) -> None:
        """The server ends: so does every open request, with 503."""
        self.fail(RequestError("the server is stopping", code="service_unavailable", status=503))

    def fail(self, error: MaxserveError) -> None:
        """The worker is gone: ends every open request with `error`."""
        self._channel = None
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.put_nowait(error)

    def worker_died(self, error: MaxserveError) -> Collection[str]:
        """It went by itself: likewise. Returns the adapters that the next worker is not to have, because of that."""
        left_out = self.adapters.worker_died({stream.adapter for stream in self._streams.values()})
        self.fail(error)
        return left_out

    def deliver(self, message: messages.Outputs) -> None:
        """Gives each request its output; requests that are no longer waited for were aborted meanwhile."""
        for refusal in message.rejected:
            self._end(refusal.id, _error(refusal))
        given: tuple[Output | Encoded, ...] = message.outputs or message.encoded  # an engine gives one or the other
        for output in given:
            if output.finish is None:
                stream = self._streams.get(output.id)
                if stream is not None:
                    stream.put_nowait(output)
            else:
                if output.finish != "error":
                    self._count_served(output.id)
                self._end(output.id, output)
        self.on_stats(message.stats)

    def _count_served(self, id: str) -> None:
        self.served += 1
        if (stream := self._streams.get(id)) is not None:
            self.adapters.answered(stream.adapter)

    def _end(self, id: str, last: Output | Encoded | MaxserveError) -> None:
        stream = self._streams.pop(id, None)
        if stream is not None:
            stream.put_nowait(last)


class _Stream(asyncio.Queue[Output | Encoded | MaxserveError]):
    """What came for an open request and was not read yet; it counts as `weight` requests, computed with `adapter`."""

    def __init__(self, weight: int, adapter: str = "") -> None:
        super().__init__()
        self.weight, self.adapter = weight, adapter


def _error(refusal: messages.RequestRejected) -> RequestError:
    return RequestError(refusal.message, param=refusal.param, code=refusal.code, status=refusal.status)
