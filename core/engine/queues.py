"""The queues of requests.

waiting ──(a plan grants it tokens: takes a row)──▶ begun ──(its whole prompt is computed)──▶ running ──▶ gone
   ▲                                                  │                                          │  └▶ ending ──▶ gone
   └────────────────────────────(preempted: the row is closed, no token is lost)─────────────────┘
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces.scheduler import SequenceView

K = TypeVar("K")


class Queues:
    """Who waits, whose prompt is begun and who decodes, each by id and in order of arrival there.

    `waiting` hold no row; `begun` and `running` hold one, but for those a plan has just preempted. `ending` wait for
    their last token, which the step on its way draws: nothing is left to plan for them. `by_user` has those who wait
    once more, `lines` again, by priority, and `joined` who began to since the last plan.
    """

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, Sequence] = OrderedDict()
        self.begun: dict[str, Sequence] = {}
        self.running: dict[str, Sequence] = {}
        self.ending: dict[str, Sequence] = {}
        self.by_user: dict[str, OrderedDict[str, Sequence]] = {}
        self.lines: dict[int, OrderedDict[str, Sequence]] = {}
        self.joined: list[Sequence] = []
        self._views: list[SequenceView] | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.begun) + len(self.running) + len(self.ending)

    def __contains__(self, id: str) -> bool:
        return id in self.waiting or id in self.begun or id in self.running or id in self.ending

    @property
    def running_views(self) -> SequenceOf[SequenceView]:
        """Those who run, as policies see them; made anew when one comes or goes."""
        if self._views is None:
            self._views = [sequence.view for sequence in self.running.values()]
        return self._views.copy()

    def pop(self, id: str) -> Sequence | None:
        if id in self.running:
            self._views = None
            return self.running.pop(id)
        return self._leave_line(id) or self.begun.pop(id, None) or self.ending.pop(id, None)

    def wait(self, sequence: Sequence) -> None:
        """It goes to the end of the line."""
        self.waiting[sequence.id] = sequence
        self.by_user.setdefault(sequence.request.user, OrderedDict())[sequence.id] = sequence
        self.lines.setdefault(sequence.request.priority, OrderedDict())[sequence.id] = sequence
        self.joined.append(sequence)

    def begin(self, sequences: Iterable[Sequence]) -> None:
        """These, who waited, have a row and will have part of their prompt in it."""
        for sequence in sequences:
            self._leave_line(sequence.id)
            self.begun[sequence.id] = sequence

    def run(self, sequences: Iterable[Sequence]) -> None:
        """Each of these that had just begun has its prompt computed: from now on it decodes."""
        if not self.begun:  # the common case, since all of a step that only decodes run already
            return
        for sequence in sequences:
            if self.begun.pop(sequence.id, None) is not None:
                self.running[sequence.id] = sequence
                self._views = None

    def end(self, sequences: Iterable[Sequence]) -> None:
        """These, who ran, will have their last token with the step on its way."""
        for sequence in sequences:
            self.ending[sequence.id] = self.running.pop(sequence.id)
            self._views = None

    def wait_first(self, sequence: Sequence) -> None:
        """It goes to the front of the line of its priority."""
        self.pop(sequence.id)
        self.wait(sequence)
        self.waiting.move_to_end(sequence.id, last=False)
        self.by_user[sequence.request.user].move_to_end(sequence.id, last=False)
        self.lines[sequence.request.priority].move_to_end(sequence.id, last=False)

    def _leave_line(self, id: str) -> Sequence | None:
        sequence = self.waiting.pop(id, None)
        if sequence is not None:
            _leave(self.by_user, sequence.request.user, id)
            _leave(self.lines, sequence.request.priority, id)
        return sequence

    def prompts(self) -> Iterator[Sequence]:
        """Those with a prompt to compute: begun ones, then the others, the lowest number of priority first."""
        yield from self.begun.values()
        for priority in sorted(self.lines):
            yield from self.lines[priority].values()

    def prompts_of(self, user: str) -> Iterator[Sequence]:
        """The same, of one user."""
        yield from (sequence for sequence in self.begun.values() if sequence.request.user == user)
        own: Iterable[Sequence] = self.by_user.get(user, OrderedDict()).values()
        yield from own if len(self.lines) < 2 else sorted(own, key=lambda sequence: sequence.request.priority)

    def holders(self) -> Iterator[Sequence]:
        """Those who hold a row and may lose it, newest first: begun prompts came after those who run."""
        for queue in (self.begun, self.running):
            yield from (sequence for sequence in reversed(queue.values()) if sequence.started)

    def rows_held(self) -> int:
        """Rows of all who are here."""
        return sum(s.started for s in chain(self.begun.values(), self.running.values(), self.ending.values()))


def _leave(lines: dict[K, OrderedDict[str, Sequence]], key: K, id: str) -> None:
    line = lines[key]
    del line[id]
    if not line:
        del lines[key]
