"""What the engine keeps of a request while it lives, and the queues it lives in.

waiting ──(a plan grants it tokens: takes a row)──▶ waiting, started ──(whole prompt computed)──▶ running ──▶ gone
   ▲                                                    │                                            │
   └──────────────────────────────(preempted: the row is closed, no token is lost)────────────────────┘
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from maxserve.core.nouns import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_ROW = -1
AHEAD = 16  # random numbers made at once: one call of numpy's costs as much as all of them


class Sequence:
    """A request on its way: its tokens, how many of them are in the cache, and the cache row that holds them."""

    __slots__ = (
        "arrived",
        "buffer",
        "cached",
        "_generator",
        "_uniforms",
        "computed",
        "ends",
        "last",
        "length",
        "limit",
        "params",
        "peeked",
        "prompt_length",
        "request",
        "row",
        "salt",
        "view",
    )

    def __init__(
        self,
        request: Request,
        *,
        limit: int,
        ends: frozenset[int],
        params: Mapping[type[Any], Any],
        regimes: tuple[int, ...] = (),
    ) -> None:
        prompt = np.asarray(request.prompt, dtype=np.int64)
        self.request = request
        self.prompt_length = self.length = len(prompt)
        self.salt = _salt(request, regimes)
        self.limit = limit  # the length at which it ends
        self.ends = ends  # tokens that end it
        self.params = params
        self.buffer: NDArray[np.int64] = np.empty(min(limit, len(prompt) + 64), dtype=np.int64)
        self.buffer[: len(prompt)] = prompt
        self.last = int(prompt[-1])
        self.computed = 0  # tokens whose keys and values are in the row
        self.cached: int | None = None  # prompt tokens found in the prefix cache when it first took a row
        self.row = NO_ROW
        self.arrived = time.monotonic()
        self.peeked: tuple[int, int] = (-1, 0)  # (step, prefix hits seen then): a policy may ask often within one step
        self._generator: np.random.Generator | None = None  # made at the first draw; greedy requests never need one
        self._uniforms: list[float] = []  # the next numbers it gives, the next one last
        self.view = SeenSequence(self)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Prompt and generated tokens; a view, valid until the next `append`."""
        return self.buffer[: self.length]

    @property
    def generated(self) -> int:
        return self.length - self.prompt_length

    @property
    def started(self) -> bool:
        return self.row != NO_ROW

    def uniform(self) -> float:
        """Its next random number in [0, 1), which depends on its seed and on how many came before."""
        if not self._uniforms:
            if self._generator is None:
                self._generator = np.random.Generator(np.random.Philox(_seed(self.request)))
            self._uniforms = self._generator.random(AHEAD)[::-1].tolist()
        return self._uniforms.pop()

    def append(self, token: int) -> None:
        if self.length == len(self.buffer):
            grown = np.empty(min(self.limit, 2 * self.length), dtype=np.int64)
            grown[: self.length] = self.buffer
            self.buffer = grown
        self.buffer[self.length] = self.last = token
        self.length += 1


def _salt(request: Request, regimes: tuple[int, ...]) -> str:
    """What prefixes are shared under: the request's own salt and, where the model has several, its regime."""
    return f"{bisect_left(regimes, len(request.prompt))}:{request.salt}" if regimes else request.salt


def _seed(request: Request) -> int | None:
    """A seed decides every draw of its request; without one the operating system does."""
    seed = request.params.seed
    return None if seed is None else seed % 2**64


class SeenSequence:
    """A sequence as a scheduling policy sees it: every question, no handle."""

    __slots__ = ("_sequence",)

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    @property
    def id(self) -> str:
        return self._sequence.request.id

    @property
    def todo(self) -> int:
        sequence = self._sequence
        if sequence.started:
            return sequence.length - sequence.computed
        return max(1, sequence.length - sequence.peeked[1])

    @property
    def length(self) -> int:
        return self._sequence.length

    @property
    def prompt_length(self) -> int:
        return self._sequence.prompt_length

    @property
    def generated(self) -> int:
        return self._sequence.generated

    @property
    def started(self) -> bool:
        return self._sequence.started

    @property
    def waited(self) -> float:
        return time.monotonic() - self._sequence.arrived

    @property
    def user(self) -> str:
        return self._sequence.request.user

    @property
    def priority(self) -> int:
        return self._sequence.request.priority


class Queues:
    """Who waits, whose prompt is begun and who decodes, each by id and in order of arrival at that place.

    `waiting` hold no row; `begun` and `running` hold one, but for those a plan has just preempted. `by_user` has those
    who wait once more, and `joined` who began to since the last plan.
    """

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, Sequence] = OrderedDict()
        self.begun: dict[str, Sequence] = {}
        self.running: dict[str, Sequence] = {}
        self.by_user: dict[str, OrderedDict[str, Sequence]] = {}
        self.joined: list[Sequence] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.begun) + len(self.running)

    def __contains__(self, id: str) -> bool:
        return id in self.waiting or id in self.begun or id in self.running

    def pop(self, id: str) -> Sequence | None:
        return self._leave_line(id) or self.begun.pop(id, None) or self.running.pop(id, None)

    def wait(self, sequence: Sequence) -> None:
        """It goes to the end of the line."""
        id = sequence.request.id
        self.waiting[id] = sequence
        self.by_user.setdefault(sequence.request.user, OrderedDict())[id] = sequence
        self.joined.append(sequence)

    def begin(self, sequences: Iterable[Sequence]) -> None:
        """These, who waited, have a row and will have part of their prompt in it."""
        for sequence in sequences:
            self._leave_line(sequence.request.id)
            self.begun[sequence.request.id] = sequence

    def run(self, sequences: Iterable[Sequence]) -> None:
        """Whoever of these had just begun has its prompt computed: from now on it decodes."""
        if not self.begun:  # the common case, since all of a step that only decodes run already
            return
        for sequence in sequences:
            if self.begun.pop(sequence.request.id, None) is not None:
                self.running[sequence.request.id] = sequence

    def wait_first(self, sequence: Sequence) -> None:
        """It goes to the front of the line."""
        id, user = sequence.request.id, sequence.request.user
        self.pop(id)
        self.wait(sequence)
        self.waiting.move_to_end(id, last=False)
        self.by_user[user].move_to_end(id, last=False)

    def _leave_line(self, id: str) -> Sequence | None:
        sequence = self.waiting.pop(id, None)
        if sequence is not None:
            own = self.by_user[sequence.request.user]
            del own[id]
            if not own:
                del self.by_user[sequence.request.user]
        return sequence

    def prompts(self) -> Iterator[Sequence]:
        """Those with a prompt to compute: begun ones, then the others."""
        yield from self.begun.values()
        yield from self.waiting.values()

    def prompts_of(self, user: str) -> Iterator[Sequence]:
        """The same, of one user."""
        yield from (sequence for sequence in self.begun.values() if sequence.request.user == user)
        yield from self.by_user.get(user, {}).values()

    def holders(self) -> Iterator[Sequence]:
        """Those who hold a row, newest first: begun prompts came after those who run."""
        for place in (self.begun, self.running):
            yield from (sequence for sequence in reversed(place.values()) if sequence.started)
