"""Settings of the events of the prefix cache: vLLM's keys of `--kv-events-config`, and how events are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.options import Settings

GENERATION = Option(used_by="generation")


@dataclass(frozen=True, slots=True)
class KVEventSettings:
    enable_kv_cache_events: Annotated[
        bool,
        GENERATION,
        Field(description="Tell routers over ZMQ which pages of prefixes the cache gains and loses, tokens included."),
    ] = False
    publisher: Annotated[
        Literal["zmq", "null"], GENERATION, Field(description="zmq, or null to publish nothing after all.")
    ] = "zmq"
    endpoint: Annotated[
        str,
        GENERATION,
        Field(
            description="Where events are published: an address with `*`, of ipc:// or inproc:// is bound, others are "
            "connected to.",
            min_length=1,
        ),
    ] = "tcp://*:5557"
    replay_endpoint: Annotated[
        str | None,
        GENERATION,
        Field(description="An address that is bound, where routers ask for batches that they missed."),
    ] = None
    buffer_steps: Annotated[int, GENERATION, Field(description="Batches that are kept for replay.", ge=1)] = 10_000
    hwm: Annotated[
        int,
        GENERATION,
        Field(description="Batches that wait for a slow router before it misses some; 0 is any number.", ge=0),
    ] = 100_000
    max_queue_size: Annotated[
        int,
        GENERATION,
        Field(
            description="Events that wait to be published; when there are more, routers are told to forget all.", ge=1
        ),
    ] = 100_000
    topic: Annotated[
        str, GENERATION, Field(description="The topic of all messages; llm-d reads it as kv@POD@MODEL.")
    ] = ""
    encoding: Annotated[
        Literal["arrays", "event-maps", "maps"],
        GENERATION,
        Field(
            description="Batches and events as arrays (what llm-d reads), batches as arrays of maps, or all as maps."
        ),
    ] = "arrays"


def check(settings: Settings, own: KVEventSettings) -> None:
    """SettingsError for several replicas, which would all publish at one address."""
    if own.enable_kv_cache_events and settings.model.data_parallel_degree > 1:
        raise SettingsError(
            f"--data-parallel-degree {settings.model.data_parallel_degree}: all replicas would publish at "
            f"--kv-events.endpoint {own.endpoint}; leave --kv-events.enable-kv-cache-events out, or start two servers"
        )
