"""The parts of an engine, and its counters."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from maxserve.core.engine.grammar import GrammarManager
from maxserve.core.interfaces.observer import BATCH_SIZE_EDGES, ITERATION_TOKENS_EDGES, Distribution

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.drafting import Drafting
    from maxserve.core.engine.draw import Pipeline
    from maxserve.core.engine.inputs import InputsBuilder
    from maxserve.core.engine.overlap import DeviceQueue
    from maxserve.core.interfaces.adapter import AdapterSlots
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.interfaces.images import ImagesOfSteps
    from maxserve.core.interfaces.runner import Runner
    from maxserve.core.interfaces.scheduler import Limits, StepCost, StepPolicy


class Buckets:
    """Counts values by their size."""

    __slots__ = ("_counts", "_edges", "_total")

    def __init__(self, edges: Sequence[int]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._total = 0

    def count(self, value: int) -> None:
        """Counts a value in the first bucket whose edge is not below it."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._total += value

    def distribution(self) -> Distribution:
        """What was counted so far."""
        return Distribution(tuple(self._counts), self._total)


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    iteration_tokens: Buckets = field(default_factory=lambda: Buckets(ITERATION_TOKENS_EDGES))
    batch_sizes: Buckets = field(default_factory=lambda: Buckets(BATCH_SIZE_EDGES))

    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_by_depth: list[int] = field(default_factory=list)

    def count_drafts(self, tried: NDArray[np.int64], stood: NDArray[np.int64]) -> None:
        """Counts the drafts of a step: how many each sequence had, and how many of them stood."""
        self.drafts += int(np.count_nonzero(tried))
        self.draft_tokens += int(tried.sum())
        by_depth = self.accepted_by_depth
        by_depth += [0] * (int(tried.max(initial=0)) - len(by_depth))
        for depth in range(int(stood.max(initial=0))):
            by_depth[depth] += int(np.count_nonzero(stood > depth))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an engine is put together from; see assemble.py.

    `max_steps` is how many steps of decoding run before the policy, aborts and new requests are looked at. With a
    `device_queue`, each step is launched before the tokens of the one before it are known. With `drafting`, which goes
    with neither, steps verify drafts. `cost` learns what steps take. `grammar_backend` is the one worth having ready.
    `empty_steps`: the model also runs when there is no request. `on_lost_pages` hears how many sequences have just
    given up their pages for want of free ones, and how many have since the start.
    """

    info: ModelInfo
    limits: Limits
    cache: Cache
    policy: StepPolicy
    policy_name: str
    cost: StepCost
    builder: InputsBuilder
    runner: Runner
    pipeline: Pipeline
    images: ImagesOfSteps | None = None
    read_params: Callable[[Mapping[str, Mapping[str, Any]]], Mapping[type[Any], Any]]
    grammars: GrammarManager = field(default_factory=GrammarManager)
    grammar_backend: str | None = None
    adapters: AdapterSlots
    max_steps: int = 1
    device_queue: DeviceQueue | None = None
    drafting: Drafting | None = None
    empty_steps: bool = False
    failure_percent: float = 0.0
    check_when_idle: bool = False
    on_lost_pages: Callable[[int, int], object] = lambda count, total: None
    random: random.Random = field(default_factory=random.Random)
