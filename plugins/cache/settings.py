"""Settings of the paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option


@dataclass(frozen=True, slots=True)
class PagedSettings:
    eviction: Annotated[
        str,
        Option(metavar="NAME", registry="eviction_policies"),
        Field(
            description="Which cached prefixes go first when pages run out: lru, lfu, fifo, mru, or a name that a "
            "plugin registers.",
            min_length=1,
        ),
    ] = "lru"
