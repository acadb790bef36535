"""Suffix decoding: the text goes on as texts did that had its last tokens (method `suffix`, arXiv 2411.04975).

The last tokens are looked for in the prompt and the text before, and, with `--suffix.max-cached-tokens`, in answers
that are over. Where they were several times, each further draft is the token that followed most often; drafts end where
the likelihood of all of them together, as counted, falls below `--suffix.min-token-prob`. Longer matches have more
drafts. Past answers are those of requests with the same cache salt: what one client was told is no other client's.

Places of a run of tokens are found by a hash of its last two. Only the latest of them are compared, so that a
step costs some microseconds a sequence, however long the texts are.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from struct import unpack_from
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maxserve.plugins.speculation.histories import WIDTH, Histories, History
from maxserve.plugins.speculation.options import SuffixSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from maxserve.interfaces.speculator import DraftSequence, DraftStep, SpeculatorContext

    Tokens = NDArray[np.int64]

RUN = 2  # tokens by which places are found
TRIED = 12  # places that are compared, the latest ones
ENTERED = 1024  # tokens of past answers that a step enters or drops, some 0.7 µs each; more with many sequences
ENTERED_EACH = 16  # by each of its sequences: far more than they write
LENGTHS = (3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # of matches that are told apart


class Place(NamedTuple):
    """A place in a text: there are `end` tokens up to it."""

    data: bytes | bytearray
    end: int


class Proposal(NamedTuple):
    """Drafts, and how many of them are expected to stand, as counted."""

    drafts: list[int]
    expected: float


NOTHING = Proposal([], 0.0), 0


@dataclass(slots=True)
class Change:
    """An answer whose places are entered, or dropped: those from `at` on are not yet."""

    number: int
    salt: str
    data: bytes
    at: int
    entered: bool

    @property
    def left(self) -> int:
        """How many places are left to do."""
        return max(len(self.data) // WIDTH - self.at, 0)


class PastAnswers:
    """Answers that are over, up to so many `tokens` of all together; the least recently used go first.

    Those of a salt are found by that salt alone, and once `work` has come to them: what is added or dropped waits.
    """

    def __init__(self, tokens: int) -> None:
        self._most = tokens
        self._left = tokens
        self._answers: OrderedDict[int, tuple[str, bytes, int]] = OrderedDict()  # salt, tokens, where the answer begins
        self._numbers: dict[tuple[str, bytes], int] = {}  # of the same
        self._places: dict[str, dict[bytes, list[tuple[int, int]]]] = {}  # by salt and run: answer, and end of the run
        self._next = 0
        self._changes: deque[Change] = deque()  # first come, first done: what is dropped was entered before
        self.waiting = 0  # places that are left of them

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def tokens(self) -> int:
        """How many are kept."""
        return self._most - self._left

    def add(self, salt: str, before: Tokens, answer: Tokens) -> None:
        """Keeps an answer, of which `before` are the last tokens of the prompt, unless too much waits already."""
        answer = answer[: max(self._most - len(before), 0)]
        data = np.concatenate((before, answer)).astype(np.int32).tobytes()
        if not len(answer) or self.waiting > 2 * self._most:
            return
        if (salt, data) in self._numbers:
            self._answers.move_to_end(self._numbers[salt, data])
            return
        self._left -= len(data) // WIDTH
        while self._left < 0:
            self._drop()
        number, self._next = self._next, self._next + 1
        self._numbers[salt, data] = number
        self._answers[number] = salt, data, len(before)
        self._wait(Change(number, salt, data, max(len(before), RUN), entered=True))

    def _drop(self) -> None:
        """Forgets the answer that was used least recently."""
        number, (salt, data, begin) = self._answers.popitem(last=False)
        del self._numbers[salt, data]
        self._left += len(data) // WIDTH
        self._wait(Change(number, salt, data, max(begin, RUN), entered=False))

    def _wait(self, change: Change) -> None:
        self._changes.append(change)
        self.waiting += change.left

    def work(self, tokens: int) -> None:
        """Enters and drops the places of so many tokens at most."""
        while self._changes and (tokens > 0 or not self._changes[0].left):
            change = self._changes[0]
            count = min(tokens, change.left)
            (self._enter if change.entered else self._remove)(change, range(change.at, change.at + count))
            change.at, tokens, self.waiting = change.at + count, tokens - count, self.waiting - count
            if not change.left:
                self._changes.popleft()

    def _enter(self, change: Change, ends: range) -> None:
        places = self._places.setdefault(change.salt, {}) if ends else {}
        for end in ends:
            found = places.setdefault(_run(change.data, end), [])
            found.append((change.number, end))
            del found[:-TRIED]

    def _remove(self, change: Change, ends: range) -> None:
        places = self._places.get(change.salt, {})
        for end in ends:
            run = _run(change.data, end)
            left = [place for place in places.get(run, ()) if place[0] != change.number]
            if left:
                places[run] = left
            else:
                places.pop(run, None)
        if not places:
            self._places.pop(change.salt, None)

    def places(self, salt: str, run: bytes) -> list[Place]:
        """Where the run is in answers of that salt, the latest last; they have been used then."""
        found = [place for place in self._places.get(salt, {}).get(run, ()) if place[0] in self._answers]
        for number, _ in found:
            self._answers.move_to_end(number)
        return [Place(self._answers[number][1], end) for number, end in found]


def _run(data: bytes | bytearray, end: int) -> bytes:
    """The run before a place."""
    return bytes(data[(end - RUN) * WIDTH : end * WIDTH])


class SuffixDrafter:
    """A Drafter."""

    def __init__(self, context: SpeculatorContext) -> None:
        self._settings = settings = context.config(SuffixSettings)
        self._lengths = [length for length in LENGTHS if length < settings.max_match_length]
        self._lengths.append(settings.max_match_length)
        self._histories = Histories(lambda: History(RUN))
        self._past = PastAnswers(settings.max_cached_tokens) if settings.max_cached_tokens else None

    def propose(self, step: DraftStep) -> list[list[int]]:
        if self._past is not None:
            for i in np.flatnonzero(step.kept == 0).tolist():
                self._remember(self._past, step.sequences[i])
            self._past.work(max(ENTERED, ENTERED_EACH * len(step.sequences)))
        self._histories.begin(step)
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self._drafts(sequence, wanted) if wanted else [] for sequence, wanted in pairs]

    def _remember(self, past: PastAnswers, sequence: DraftSequence) -> None:
        tokens, prompt = sequence.tokens, sequence.prompt_length
        past.add(sequence.salt, tokens[max(prompt - self._settings.max_match_length, 0) : prompt], tokens[prompt:])

    def _drafts(self, sequence: DraftSequence, wanted: int) -> list[int]:
        history = self._histories.read(sequence)
        data, own, past = history.data, history.places(TRIED), self._past
        found = self._proposal(data, [Place(data, end) for end in own], wanted, loops=True) if own else NOTHING
        if past is not None:
            places = past.places(sequence.salt, _run(data, len(data) // WIDTH))
            other = self._proposal(data, places, wanted) if places else NOTHING
            found = max(found, other, key=lambda each: (each[0].expected, each[1]))
        return found[0].drafts

    def _proposal(
        self, text: bytearray, places: list[Place], wanted: int, *, loops: bool = False
    ) -> tuple[Proposal, int]:
        """What followed where most of the last tokens of the text are the same, and how many these are.

        `loops`: the places are in the text itself.
        """
        length, places = self._longest(text, places)
        most = min(wanted, int(length * self._settings.max_spec_factor))
        following = [_from(place, most, loops) for place in places]
        return likeliest(following, most, self._settings.min_token_prob), length

    def _longest(self, text: bytearray, places: list[Place]) -> tuple[int, list[Place]]:
        """How many of the last tokens were there before, about, and at which of the places."""
        found = RUN
        for length in self._lengths:
            last = text[-length * WIDTH :]
            on = [place for place in places if place.data.endswith(last, 0, place.end * WIDTH)]
            if not on or len(last) < length * WIDTH:
                break
            found, places = length, on
        return found, places


def _from(place: Place, most: int, loops: bool) -> Sequence[int]:
    """Up to `most` tokens from there on; a text that `loops` goes on with itself where it ends."""
    count = min(most, len(place.data) // WIDTH - place.end)
    found: tuple[int, ...] = unpack_from(f"={count}i", place.data, place.end * WIDTH)
    return (found * -(-most // count))[:most] if loops and count < most else found


def likeliest(following: Sequence[Sequence[int]], most: int, least: float) -> Proposal:
    """Up to `most` tokens, each the most frequent one behind those before it, the latest of them first.

    They end where the product of their shares is less than `least`.
    """
    drafts: list[int] = []
    share, expected = 1.0, 0.0
    while len(drafts) < most:
        at = len(drafts)
        following = [tokens for tokens in following if len(tokens) > at]
        if len(following) == 1:
            drafts += following[0][at:most]
            return Proposal(drafts, expected + share * (len(drafts) - at))
        counts: dict[int, int] = {}
        for tokens in reversed(following):
            counts[tokens[at]] = counts.get(tokens[at], 0) + 1
        if not counts:
            break
        token = max(counts, key=counts.__getitem__)
        share *= counts[token] / len(following)
        if share < least:
            break
        drafts.append(token)
        expected += share
        following = [tokens for tokens in following if tokens[at] == token]
    return Proposal(drafts, expected)
