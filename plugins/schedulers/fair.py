"""The scheduler `fair`: an equal share for each client."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from maxserve.interfaces.scheduler import Plan, SchedulerContext, SequenceView, View
from maxserve.plugins.schedulers.admission import Admission
from maxserve.plugins.schedulers.continuous import Continuous
from maxserve.plugins.schedulers.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Config:
    """Weights by client: one of weight 2 gets twice the tokens of one of weight 1 while both want more."""

    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": 'Share of each client, by the request\'s user or key-…; such as {"alice": 2}.'},
    )
    default_weight: float = field(default=1.0, metadata={"help": "Share of every other client."})

    def __post_init__(self) -> None:
        for weight in (*self.weights.values(), self.default_weight):
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"a weight must be above 0 and finite, got {weight}")


class Fair(Continuous):
    """Continuous batching in which the next prompt is that of the client who was served least for its weight.

    Service is prompt tokens computed (those found in the cache are free) and tokens generated after the first, which
    comes with its prompt. A client's own requests keep their order, and a prompt that is begun is finished first.
    """

    def __init__(self, context: SchedulerContext) -> None:
        super().__init__(context)
        self._config = context.config(Config)
        self._ledger = self._new_ledger()
        self._running: Sequence[SequenceView] = ()
        self._counted: list[int] = []  # how many generated tokens of each of those were charged, or are the first

    def plan(self, view: View, plan: Plan) -> None:
        self._keep_books(view)
        super().plan(view, plan)

    def _new_ledger(self) -> Ledger:
        return Ledger(self._config.weights, self._config.default_weight)

    def _keep_books(self, view: View) -> None:
        running, joined = view.running, view.joined
        if not joined and running == self._running:
            return  # none came or went: what was generated is charged when one does
        if not running and view.waiting_count == len(joined):
            self._ledger = self._new_ledger()  # all were gone: what was before did no harm to those that come now
        else:
            self._charge_generated()
        self._running, self._counted = running, [sequence.generated for sequence in running]
        users = {sequence.user for sequence in running}
        self._ledger.begin(users, [sequence.user for sequence in joined], view.waiting_users)

    def _charge_generated(self) -> None:
        """Those who ended since are charged to their last token, too."""
        tokens: dict[str, int] = {}
        for sequence, counted in zip(self._running, self._counted, strict=True):
            user = sequence.user
            tokens[user] = tokens.get(user, 0) + sequence.generated - counted
        for user, count in tokens.items():
            self._ledger.charge(user, count)

    def _offer(self, view: View, admission: Admission) -> None:
        for sequence in view.waiting:
            if not sequence.started or not admission.open:
                break
            self._admit(sequence, admission)
        queues: dict[str, Iterator[SequenceView]] = {}
        while admission.open and (user := self._ledger.next()) is not None:
            own = queues.setdefault(user, iter(view.waiting_of(user)))
            fresh = next((s for s in own if not s.started), None)
            if fresh is None:
                self._ledger.leave()
            else:
                self._admit(fresh, admission)

    def _admit(self, sequence: SequenceView, admission: Admission) -> None:
        self._ledger.charge(sequence.user, admission.offer(sequence))
