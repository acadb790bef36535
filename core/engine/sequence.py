"""A request in the engine, and what a scheduling policy sees of it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from maxserve.core.engine.ledger import NO_ROW, Ledger
from maxserve.core.interfaces.request import Request, TokenLogprob

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from maxserve.core.engine.grammar_state import GrammarState
    from maxserve.core.interfaces.adapter import SlottedAdapter
    from maxserve.core.interfaces.images import ImagesOfPrompt

AHEAD = 32  # random numbers made at once: one call of numpy's costs as much as all of them
KEPT_BLOCKS = 8  # of so many


class Sequence:
    """A request on its way: its tokens, how many of them are in the cache, and the cache row that holds them.

    Its numbers lie in `ledger` at `slot`, where a step finds those of all its sequences.
    """

    __slots__ = (
        "_filled",
        "_generator",
        "_numbers",
        "_sampler_generator",
        "adapter",
        "arrived",
        "buffer",
        "cached",
        "certain_drafts",
        "counted",
        "draft_probs",
        "drafts",
        "ends",
        "fresh",
        "grammar",
        "id",
        "images",
        "ledger",
        "params",
        "peeked",
        "preemptions",
        "prompt_length",
        "queued",
        "request",
        "room",
        "salt",
        "scheduled",
        "scored",
        "scores",
        "slot",
        "uniforms",
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
        images: ImagesOfPrompt | None = None,
        adapter: SlottedAdapter | None = None,
        adapters: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        prompt = np.asarray(request.prompt, dtype=np.int64)
        self.request = request
        self.id = request.id
        self.prompt_length = len(prompt)
        self.adapter = adapter
        self.salt = salt_of(request, regimes, adapters, adapter)
        self.images = images
        self.ends = ends  # tokens that end it
        self.params = params
        self.grammar: GrammarState | None = None  # of those whose text is constrained, once it is ready
        self.buffer: NDArray[np.int64] = np.empty(min(limit, len(prompt) + 64), dtype=np.int64)
        self.buffer[: len(prompt)] = prompt
        self._filled = len(prompt)
        self.fresh: list[int] = []  # tokens that are not in the buffer yet; new ones are appended here
        self.cached = 0  # prompt tokens found in the prefix cache when it first took a row
        self.certain_drafts = 0  # how many of the first drafts are all that its grammar allows
        self.counted = False  # whether that was noted
        self.drafts: list[int] = []  # tokens that may follow, to be verified in its next step
        self.draft_probs: SequenceOf[DrawnFrom | None] = ()  # what each draft was drawn from; see `draft`
        self.room = 0  # tokens it may decode, one a step, within the pages it has; 0: the plan must look
        self.arrived = time.monotonic()
        self.queued = 0.0  # seconds until its first step was planned, and when that was
        self.scheduled = 0.0  # 0 before that, and again when its first output was made
        self.preemptions = 0
        self.peeked: tuple[int, int] = (-1, 0)  # (step, prefix hits seen then): a policy may ask often within one step
        self.scored = 1  # prompt tokens whose logprobs were asked of the model; nothing comes before the first
        self.scores: list[TokenLogprob] = []  # those that are known and not yet sent
        self._generator: np.random.Generator | None = None  # made at the first draw; greedy requests never need one
        self._sampler_generator: np.random.Generator | None = None  # made when a sampler asks
        self.uniforms: list[float] = []  # the next random numbers, the next one last
        self._numbers: DraftNumbers | None = None  # made when a draft is drawn
        self.view = SeenSequence(self)
        self.ledger = ledger or Ledger(1)
        self.slot = self.ledger.open()
        self._open(len(prompt), limit, request)

    def _open(self, length: int, limit: int, request: Request) -> None:
        ledger, slot = self.ledger, self.slot
        ledger.prompt_length[slot] = ledger.length[slot] = length
        ledger.limit[slot] = limit
        ledger.last[slot] = self.buffer[length - 1]
        constrained = request.params.constraint is not None
        ledger.eos_ends[slot] = constrained or not request.params.ignore_eos
        ledger.images_end[slot] = 0 if self.images is None else self.images.end
        ledger.shift[slot] = 0 if self.images is None else self.images.shift
        scored = request.params.prompt_logprobs is not None
        ledger.needs_check[slot] = constrained or scored or bool(request.params.stop_token_ids)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Prompt and generated tokens as far as they are known; a view, valid until more come."""
        if self.fresh:
            self._flush()
        return self.buffer[: self._filled]

    def draft(self, tokens: list[int], probs: SequenceOf[DrawnFrom | None] = (), *, certain: int = 0) -> None:
        """These may follow. They lie behind its tokens until the next one is known.

        `probs` are the distributions that the first of them were drawn from, with None for a draft that was not drawn.
        The first `certain` of them are all that its grammar allows.
        """
        start, stop = len(self.tokens), len(self.tokens) + len(tokens)
        self._make_room(stop)
        self.buffer[start:stop] = tokens
        self.drafts, self.draft_probs, self.certain_drafts = tokens, probs, certain

    def cut_drafts(self, count: int) -> None:
        """Only the first so many may follow."""
        self.drafts, self.draft_probs = self.drafts[:count], self.draft_probs[:count]
        self.certain_drafts = min(self.certain_drafts, count)

    def forget_drafts(self) -> None:
        """Nothing that may follow is known."""
        self.drafts, self.draft_probs, self.certain_drafts = [], (), 0

    def drafted(self, count: int) -> NDArray[np.int64]:
        """`tokens` and the first `count` drafts behind them."""
        known = len(self.tokens)  # first: it may move to a larger buffer
        return self.buffer[: known + count]

    @property
    def keys(self) -> NDArray[np.int64]:
        """What the cache knows the tokens by: themselves, but for those of images."""
        return self.keyed(self.tokens)

    def keyed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens from its first on, as the cache knows them."""
        return tokens if self.images is None else self.images.keyed(tokens)

    def _flush(self) -> None:
        start, stop = self._filled, self._filled + len(self.fresh)
        self._make_room(stop)
        self.buffer[start:stop] = self.fresh
        self._filled = stop
        self.fresh.clear()

    def _make_room(self, length: int) -> None:
        if length > len(self.buffer):
            grown = np.empty(max(length, min(self.limit, 2 * length)), dtype=np.int64)
            grown[: self._filled] = self.buffer[: self._filled]
            self.buffer = grown

    @property
    def wants_scores(self) -> bool:
        """Whether rows of its prompt must be computed for their logprobs: then no prefix may be skipped."""
        return self.request.params.prompt_logprobs is not None and self.scored < self.prompt_length

    @property
    def limit(self) -> int:
        """The length at which it ends."""
        return int(self.ledger.limit[self.slot])

    @property
    def length(self) -> int:
        """Prompt and generated tokens, one that is on its way included."""
        return int(self.ledger.length[self.slot])

    @property
    def generated(self) -> int:
        """Tokens that are known; its own count, true also when it is over and its slot is another's."""
        return self._filled + len(self.fresh) - self.prompt_length

    @property
    def alive(self) -> bool:
        """Whether its tokens are still waited for."""
        return bool(self.ledger.alive[self.slot])

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are in the row, or will be when the step on its way is done."""
        return int(self.ledger.computed[self.slot])

    @property
    def row(self) -> int:
        return int(self.ledger.row[self.slot])

    @property
    def started(self) -> bool:
        return self.row != NO_ROW

    def take_row(self, row: int, computed: int, page_size: int) -> None:
        """It holds a row from now on, in which so many of its tokens are computed."""
        ledger, slot = self.ledger, self.slot
        ledger.row[slot] = row
        ledger.computed[slot] = computed
        ledger.commit_at[slot] = (computed // page_size + 1) * page_size

    def leave_row(self) -> int:
        """It holds no row any more; returns the one it held."""
        ledger, slot, row = self.ledger, self.slot, self.row
        ledger.row[slot], ledger.computed[slot] = NO_ROW, 0
        self.room = 0
        self.forget_drafts()
        if self.adapter is not None:
            self.adapter.pool.leave(self.adapter)
        return row

    def append(self, token: int) -> None:
        """One token more, known at once."""
        ledger, slot = self.ledger, self.slot
        self.fresh.append(token)
        ledger.last[slot] = token
        ledger.length[slot] += 1

    def put_back(self, uniforms: SequenceOf[float]) -> None:
        """Random numbers that decided no token, in their order: they are the next ones again."""
        self.uniforms.extend(reversed(uniforms))

    def uniform(self) -> float:
        """Its next random number in [0, 1), which depends on its seed and on how many came before."""
        if not self.uniforms:
            self._draw_ahead()
        return self.uniforms.pop()

    def _draw_ahead(self) -> None:
        if self._generator is None:
            self._generator = np.random.Generator(np.random.Philox(_seed(self.request)))
        self.uniforms[:0] = self._generator.random(AHEAD)[::-1].tolist()

    def peek(self, ahead: int) -> float:
        """The random number that the token so many after the next one will be drawn with."""
        while len(self.uniforms) <= ahead:
            self._draw_ahead()
        return self.uniforms[-1 - ahead]

    def draft_number(self, purpose: int, ahead: int) -> float:
        """A random number in [0, 1) for the draft so many tokens after the next one: another one for each purpose."""
        if self._numbers is None:
            self._numbers = DraftNumbers(_seed(self.request))
        return self._numbers.at(purpose, self.generated + ahead)

    @property
    def seed(self) -> int | None:
        return self.request.params.seed

    @property
    def generator(self) -> np.random.Generator:
        """Random numbers for samplers; other ones than those that draw the tokens."""
        if self._sampler_generator is None:
            self._sampler_generator = np.random.Generator(np.random.Philox(_seed(self.request)).jumped())
        return self._sampler_generator


class DrawnFrom(NamedTuple):
    """The distribution that a draft was drawn from: a row of `table` [rows, vocab]."""

    table: torch.Tensor
    row: int


class DraftNumbers:
    """Random numbers in [0, 1) by purpose and position: the same ones at each call, in any order of calls.

    No two of them are the same part of the generator's period, nor is one of those that tokens are drawn with.
    """

    DRAW, ACCEPT = 1, 2

    __slots__ = ("_blocks", "_key")

    def __init__(self, seed: int | None) -> None:
        self._key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self._blocks: dict[tuple[int, int], list[float]] = {}

    def at(self, purpose: int, position: int) -> float:
        block = purpose, position // AHEAD
        found = self._blocks.get(block)
        if found is None:
            if len(self._blocks) >= KEPT_BLOCKS:
                self._blocks.clear()
            counter = np.array([0, block[1], 0, purpose], dtype=np.uint64)
            found = np.random.Generator(np.random.Philox(key=self._key, counter=counter)).random(AHEAD).tolist()
            self._blocks[block] = found
        return found[position % AHEAD]


def salt_of(request: Request, regimes: tuple[int, ...], adapters: bool, adapter: SlottedAdapter | None) -> str:
    """What prefixes are shared under: the request's own salt, the model's regime if it has several, and the adapter.

    Where there is nothing of it, and the regime is the first, that is the empty text. With `adapters`, all others begin
    with the adapter's generation, 0 for none: no client's own is taken for one.
    """
    own, regime = request.salt, bisect_left(regimes, len(request.prompt))
    salt = f"{adapter.generation if adapter else 0}:{own}" if adapters and (adapter or own) else own
    return f"{regime}:{salt}" if regimes and (regime or salt) else salt


def _seed(request: Request) -> int | None:
    """A seed decides every draw of its request; without one the operating system does."""
    seed = request.params.seed
    return None if seed is None else seed % 2**64


P = TypeVar("P")


class SeenSequence:
    """A sequence as a scheduling policy sees it: every question, no handle."""

    __slots__ = ("_sequence",)

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    @property
    def id(self) -> str:
        return self._sequence.id

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
    def cached(self) -> int:
        sequence = self._sequence
        return sequence.cached if sequence.started else sequence.peeked[1]

    @property
    def max_tokens(self) -> int | None:
        return self._sequence.request.params.max_tokens

    def params(self, cls: type[P]) -> P:
        given: P | None = self._sequence.params.get(cls)
        return cls() if given is None else given

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
