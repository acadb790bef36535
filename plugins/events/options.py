"""Settings of the events of the prefix cache: vLLM's keys of `--kv-events-config`, and how events are encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
            "connected to. Replica N has a port that is higher by N.",
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


def of_replica(own: KVEventSettings, number: int) -> KVEventSettings:
    """What replica `number` publishes with: as with vLLM, ports are that much higher, and other addresses say it."""
    replay = own.replay_endpoint
    replay = None if replay is None else _address(replay, number)
    return replace(own, endpoint=_address(own.endpoint, number), replay_endpoint=replay)


def is_bound(endpoint: str) -> bool:
    """Whether it is this server's own address, and not that of a router to connect to."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


def _address(address: str, number: int) -> str:
    head, _, port = address.rpartition(":")
    if number and address.startswith("tcp://") and port.isdecimal():
        return f"{head}:{int(port) + number}"
    return f"{address}_dp{number}" if number else address


def check(settings: Settings, own: KVEventSettings) -> None:
    """SettingsError where the addresses of several replicas are not all different, or there are no such ports."""
    degree = settings.model.data_parallel_degree
    if not own.enable_kv_cache_events or degree == 1:
        return
    given = (own.endpoint if is_bound(own.endpoint) else None, own.replay_endpoint)
    used = [_address(each, number) for number in range(degree) for each in given if each is not None]
    ports = [int(each.rpartition(":")[2]) for each in used if each.startswith("tcp://") and each[-1].isdecimal()]
    if len({*used}) < len(used) or len({*ports}) < len(ports):
        raise SettingsError(
            f"--data-parallel-degree {degree}: each replica has a port of its own from --kv-events.endpoint "
            f"{own.endpoint} on, and one from --kv-events.replay-endpoint {own.replay_endpoint} on, and some are the "
            f"same; name ports that are {degree} apart"
        )
    if max(ports, default=0) > 65535:
        raise SettingsError(
            f"--data-parallel-degree {degree}: each replica has a port of its own from --kv-events.endpoint "
            f"{own.endpoint} on, and there is none above 65535; name a lower one"
        )
