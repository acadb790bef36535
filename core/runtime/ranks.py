"""The ranks that share a model, as the core sees them: which one a process is, and its way to the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from maxserve.core.interfaces.executor import LOCAL_GROUP

if TYPE_CHECKING:
    from maxserve.core.interfaces.adapter import AdapterSlots
    from maxserve.core.interfaces.architecture import Model
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.memory import PlannedMemory
    from maxserve.core.interfaces.runner import Runner
    from maxserve.core.loading.shard import Shard


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the `size` processes this is that share a model, the first of which is the worker proper.

    `steps` are the addresses at which those after it take steps, and files that begin with `meeting` are where they
    find each other. One waits `timeout` seconds at most for another in the middle of a step. `group` is the
    "module:attribute" that makes its RankGroup (`Executor.group`).
    """

    number: int
    size: int
    steps: tuple[str, ...]
    meeting: str
    timeout: float
    group: str = LOCAL_GROUP


class RankGroup(Protocol):
    """The ranks that share a model, as one of them sees them. One thread at a time uses it.

    `shard` is what this one has of the model, and `leads` whether it is the first, which plans and draws for all.
    """

    shard: Shard
    leads: bool

    def plan(self, make: Callable[[], PlannedMemory]) -> PlannedMemory:
        """What the first rank has made, for each of them."""
        ...

    def adapt(self, adapters: AdapterSlots) -> None:
        """Has all ranks hold the adapters that the first one has in its slots; SettingsError for a kind that cannot."""

    def mirror(self, cache: Cache) -> None:
        """Has all ranks copy pages to host memory and back as the first does; SettingsError for a cache that cannot."""

    def lend(self, model: Model) -> Model:
        """The model as a drafter of the first rank calls it beside steps: what ranks share is computed by all."""
        ...

    def lead(self, runner: Runner) -> Runner:
        """The first rank's runner, with which the others run the same."""
        ...

    def follow(self, runner: Runner) -> None:
        """Runs what the first rank does; returns when that has come to its end."""

    def close(self) -> None:
        """Leaves the others; when the first does, they have come to the end."""
