"""Options of the balancer `least_cost`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class LeastCostOptions:
    """What a replica's load is counted as."""

    tokens_per_request: Annotated[
        int,
        Field(
            description="What each open request of a replica counts: the tokens of a prompt that hold others up as "
            "long as one does that is being answered.",
            ge=0,
        ),
    ] = 32
