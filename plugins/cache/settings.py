"""Settings of the paged cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from maxserve.core.registry.entries import unknown
from maxserve.plugins.cache.policies import POLICIES

_HELP = f"Which cached prefixes go first when pages run out: {', '.join(POLICIES)}."


@dataclass(frozen=True, slots=True)
class PagedSettings:
    eviction: str = field(default="lru", metadata={"help": _HELP})

    def __post_init__(self) -> None:
        if self.eviction not in POLICIES:
            raise ValueError(f"eviction: {unknown('eviction policy', self.eviction, POLICIES)}")
