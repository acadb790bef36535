"""Replicas of a model: requests go to the one that has the least to do for them."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import Balancer, Middleware, hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_balancers() -> Iterable[Balancer]:
    yield Balancer(
        name="least_cost",
        build="maxserve.plugins.replicas.client:Replicas",
        summary="the replica with the fewest tokens to compute first, where cached prefixes count as computed",
    )


@hookimpl
def maxserve_middleware() -> Iterable[Middleware]:
    yield Middleware(
        name="replica_pin",
        build="maxserve.plugins.replicas.pin:ReplicaPin",
        after=("access",),
        summary="lets a request choose its replica, by X-data-parallel-rank",
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """How requests are spread over replicas."""
    yield ConfigSection(name="least-cost", schema="maxserve.plugins.replicas.options:LeastCostOptions")
