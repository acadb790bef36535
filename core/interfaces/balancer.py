"""Balancers: which of several replicas of the model serves a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context
from maxserve.core.interfaces.routes import EngineClient

if TYPE_CHECKING:
    from maxserve.core.interfaces.observer import StepStats

__all__ = ["Balancer", "BalancerContext", "BalancesReplicas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancer(Component):
    """What spreads requests over replicas. `build(BalancerContext)` gives a BalancesReplicas, in the API process."""

    kind: ClassVar[str] = "balancer"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerContext(Context):
    """The ways to the replicas, in order. One that is not `ready` has died, and is being started anew."""

    replicas: Sequence[EngineClient]


class BalancesReplicas(EngineClient, Protocol):
    """The engine that routes have, where there are several replicas."""

    def on_replica_step(self, replica: int, stats: StepStats) -> StepStats:
        """What a replica says of its state, at most once per step; returns what all say together, for observers."""
        ...
