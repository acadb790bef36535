"""The queue of texts. Requests take turns, so that one of thousands does not hold up one of a few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxserve.interfaces.request import EncodeRequest

if TYPE_CHECKING:
    from maxserve.interfaces.adapter import PooledAdapter


@dataclass(frozen=True, slots=True)
class Taken:
    """Text number `index` of a request, taken for a step."""

    work: EncodeWork
    index: int

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.work.request.texts[self.index]

    @property
    def second(self) -> int:
        """Where the second part of the text begins; 0 where there is none."""
        starts = self.work.request.pair_starts
        return starts[self.index] if starts else 0


class EncodeWork:
    """A request and those of its texts that are still to do; the longest are done first."""

    def __init__(self, request: EncodeRequest, adapter: PooledAdapter | None = None) -> None:
        self.request = request
        self.adapter = adapter
        self._todo = sorted(range(len(request.texts)), key=lambda index: len(request.texts[index]))
        self.begun = False

    @property
    def left(self) -> int:
        """Texts that no step has taken."""
        return len(self._todo)

    @property
    def next_length(self) -> int:
        return len(self.request.texts[self._todo[-1]])

    def take(self) -> Taken:
        self.begun = True
        return Taken(self, self._todo.pop())


class EncodeQueue:
    """The requests that are open, in the order of their turns."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, EncodeWork] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, id: str) -> bool:
        return id in self._open

    def __iter__(self) -> Iterator[EncodeWork]:
        return iter(self._open.values())

    def add(self, request: EncodeRequest, adapter: PooledAdapter | None = None) -> None:
        self._open[request.id] = EncodeWork(request, adapter)

    def drop(self, id: str) -> EncodeWork | None:
        """Forgets a request, if there is one."""
        return self._open.pop(id, None)

    def take(self, tokens: int, texts: int, admits: Callable[[EncodeWork], bool] = lambda work: True) -> list[Taken]:
        """The texts of a step, sorted by length: up to `tokens` tokens and `texts` texts.

        Every request gets an equal share of the tokens, and what is left goes round again. The first text of a step
        may exceed the tokens, since texts are not cut. Who got some goes to the end of the line; requests that the
        step does not admit keep their places.
        """
        step = _Step(tokens, texts, admits)
        share = max(1, tokens // max(1, len(self._open)))
        served = [work for work in self._open.values() if step.take(work, share)]
        for work in served:
            step.take(work, tokens)
            self._open.move_to_end(work.request.id)
        return sorted(step.taken, key=lambda each: len(each.tokens))


class _Step:
    def __init__(self, tokens: int, texts: int, admits: Callable[[EncodeWork], bool]) -> None:
        self.taken: list[Taken] = []
        self._admits = admits
        self._tokens = tokens
        self._texts = texts

    def take(self, work: EncodeWork, share: int) -> bool:
        """Takes texts of `work` worth up to `share` tokens, one at least if there is room; whether it took any."""
        before, own = len(self.taken), 0
        while work.left and len(self.taken) < self._texts:
            length = work.next_length
            if self.taken and (length > self._tokens or (own and own + length > share)):
                break
            if not own and not self._admits(work):
                break
            self.taken.append(work.take())
            own += length
            self._tokens -= length
        return len(self.taken) > before
