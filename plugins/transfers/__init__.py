"""Prompts that one server computes and another one answers: keys and values travel from cache to cache."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import Transport, hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.engine import GenerationContext, ServedEngine


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Who computes prompts, and how keys and values travel."""
    yield ConfigSection(
        name="role",
        schema="maxserve.plugins.transfers.options:RoleOptions",
        within="scheduling",
        check="maxserve.plugins.transfers.options:check_role",
    )
    yield ConfigSection(
        name="transfers",
        schema="maxserve.plugins.transfers.options:TransferSettings",
        check="maxserve.plugins.transfers.options:check",
    )


@hookimpl
def maxserve_transports() -> Iterable[Transport]:
    yield Transport(
        name="tcp", build="maxserve.plugins.transfers.tcp:TcpTransport", summary="over ZMQ, between any two machines"
    )
    yield Transport(
        name="nixl", build="maxserve.plugins.transfers.nixl:NixlTransport", summary="by NIXL over UCX, such as RDMA"
    )


@hookimpl
def maxserve_engine_built(engine: ServedEngine, context: GenerationContext) -> ServedEngine | None:
    """Stands before the engine where the options ask for transfers."""
    from maxserve.plugins.transfers.engine import engine_built  # ZMQ is of no use to who transfers nothing

    return engine_built(engine, context)
