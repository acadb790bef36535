"""The drafts of sequences: asked of the drafter after each step, and cut to what can be verified."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from maxserve.core.engine.draft_draw import DraftDraw
from maxserve.core.engine.sequence import DrawnFrom
from maxserve.core.interfaces.errors import PluginError, cause
from maxserve.core.interfaces.speculator import DraftedStep, Drafts, DraftStep, ForeseesDrafts, RestingDrafter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.engine.draw import Pipeline
    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.engine.inputs import InputsBuilder
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.speculator import Drafter, DraftLengths

log = logging.getLogger("maxserve.engine")

LEARNED = 16  # steps after which there is nothing to draft, one of which says what steps take
QUIET = 2  # steps in a row without drafts after which the next are taken to have none
PROBS_TOLERANCE = 1e-2  # of the sum of a distribution that a drafter gives: half precision rounds


class DraftRoom:
    """The pages for what a drafter with layers writes behind the known tokens."""

    def __init__(self, cache: Cache, page_size: int) -> None:
        self._cache = cache
        self._page_size = page_size

    def take(self, in_flight: InFlightStep, wanted: NDArray[np.int64]) -> None:
        """Reserves pages, and cuts `wanted` where there are none that no sequence may need in the next step."""
        size, left_over = self._page_size, self._cache.sizes().available - in_flight.step.size
        for i in np.flatnonzero(wanted).tolist():
            known, end = int(in_flight.stops[i]), int(in_flight.stops[i] + wanted[i])
            left_over -= -(-end // size) - -(-known // size)
            if left_over < 0 or not self._cache.reserve(int(in_flight.rows[i]), end):
                wanted[i] = min(int(wanted[i]), -known % size)


class Drafting:
    """Gives sequences their drafts. A drafter that fails costs speed, and no request anything else.

    `rolls_back` says of a grammar back end whether its matchers can take tokens back; with others there are none.
    Requests that gave one of the params `undrafted` have no drafts.
    `room` is given for a drafter with layers, `lengths` unless as many drafts as can be are wanted. One that `follows`
    is called after every step, others where drafts are wanted or a sequence is over.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        title: str,
        draft_tokens: int,
        vocab_size: int,
        rolls_back: Callable[[str], bool],
        follows: bool = True,
        room: DraftRoom | None = None,
        lengths: DraftLengths | None = None,
        undrafted: Collection[type[Any]] = (),
    ) -> None:
        self._drafter = drafter
        self._undrafted = undrafted
        self._title = title
        self.most = draft_tokens
        self._vocab_size = vocab_size
        self._rolls_back = rolls_back
        self._follows = follows
        self._room = room
        self._lengths = lengths
        self._resting = drafter if isinstance(drafter, RestingDrafter) else None
        self._foreseeing = lengths if isinstance(lengths, ForeseesDrafts) else None
        self._complaint: str | None = None
        self._any_forced = False  # drafts so far
        self._slept = 0  # steps since the last that was looked at, after which there was nothing to draft
        self._learned = LEARNED
        self._quiet = 0  # calls in a row in which no drafts were wanted

    def sleeps(self, in_flight: InFlightStep) -> bool:
        """Whether there is nothing to draft after a step, as far as can be known before its tokens are.

        Neither drafts that were verified, nor a grammar, nor the drafter have a say in the next one then. `end` is
        called, and not `propose`. What such steps take is learned of one of some.
        """
        if self._slept >= self._learned - 1 or in_flight.prompt_tokens or in_flight.step.drafts is not None:
            return False
        quiet = self._rests(in_flight) or (not self._follows and self._quiet >= QUIET)
        asleep = quiet and not in_flight.step.ledger.needs_check[in_flight.slots].any()
        self._slept += asleep
        return asleep

    def propose(self, in_flight: InFlightStep, pipeline: Pipeline, builder: InputsBuilder, seconds: float) -> None:
        """Has drafts proposed for the next step of those who have drawn and live on; the last one took `seconds`."""
        begun = time.perf_counter()
        step, lengths = in_flight.step, self._lengths
        most: NDArray[np.int64] | int | None = self.most
        run = None if lengths is None else self._run(in_flight, seconds)
        if lengths is not None and run is not None:
            most = self._chosen(lengths, run)
        if step.drafts is not None:
            for sequence in step.sequences:
                sequence.forget_drafts()
        forced = self._forced(in_flight)
        wanted = np.zeros(step.size, dtype=np.int64)
        if not self._rests(in_flight) and (
            most is not None or self._follows or not step.ledger.alive[step.slots].all()
        ):
            if most is not None:
                wanted = self._wanted(in_flight, most)
            caught_up: list[float] = []  # seconds
            draw = DraftDraw(pipeline, step.sequences, wanted, self._vocab_size)
            asked = self._draft_step(in_flight, pipeline, builder, wanted, draw, caught_up.append)
            found = self._ask(asked)
            draw.close()
            proposed = self._enter(step, wanted, found, draw) if wanted.any() else wanted
            if lengths is not None and run is not None and self._is_price(run, wanted):
                seconds = time.perf_counter() - begun - sum(caught_up)
                self._tell(lengths, run, step.slots, wanted, proposed, seconds)
        self._quiet, self._slept = 0 if wanted.any() else self._quiet + 1, 0
        for sequence, tokens in forced:
            _put_first(sequence, tokens)

    def end(self, in_flight: InFlightStep, pipeline: Pipeline, builder: InputsBuilder) -> None:
        """Says which sequences are over after a step of which nothing was asked, to a drafter that is to hear of it."""
        step = in_flight.step
        if not self._follows and not step.ledger.alive[step.slots].all() and not self._rests(in_flight):
            wanted = np.zeros(step.size, dtype=np.int64)
            draw = DraftDraw(pipeline, step.sequences, wanted, self._vocab_size)
            self._ask(self._draft_step(in_flight, pipeline, builder, wanted, draw))

    def _draft_step(
        self,
        in_flight: InFlightStep,
        pipeline: Pipeline,
        builder: InputsBuilder,
        wanted: NDArray[np.int64],
        draw: DraftDraw,
        caught_up: Callable[[float], object] = lambda seconds: None,
    ) -> DraftStep:
        step, any_wanted = in_flight.step, bool(wanted.any())
        assert in_flight.inputs is not None, "it was computed"
        assert in_flight.output is not None, "it was computed"
        return DraftStep(
            inputs=in_flight.inputs,
            output=in_flight.output,
            sequences=step.sequences,
            kept=np.where(step.ledger.alive[step.slots], in_flight.stops - step.starts, 0),
            wanted=wanted,
            passes=partial(builder.build_pass, step),
            draw=draw,
            greedy=pipeline.untouched(step.sequences) & (wanted > 0) if any_wanted else wanted > 0,
            caught_up=caught_up,
            foreseen=self._foresees(in_flight, any_wanted),
        )

    def _chosen(self, lengths: DraftLengths, run: DraftedStep) -> NDArray[np.int64] | None:
        """The most drafts for each that drew; none where what decides them fails."""
        try:
            most = lengths.choose(run)
            if most is not None and most.shape != run.slots.shape:
                raise ValueError(f"lengths are {list(most.shape)} for {len(run.slots)} sequences")
            return None if most is None else most.clip(0, self.most)
        except Exception as error:
            self._complain(f"failed to choose lengths: {cause(error)}", error)
            return None

    def _rests(self, in_flight: InFlightStep) -> bool:
        """Whether the drafter says that it need not see the step."""
        return self._resting is not None and not in_flight.prompt_tokens and self._resting.rests

    def _foresees(self, in_flight: InFlightStep, any_wanted: bool) -> bool:
        """Whether texts will have drafts, as far as can be known: those that go on, and any that begin in the step."""
        if self._foreseeing is None or not self._follows or (any_wanted and not in_flight.prompt_tokens):
            return True
        try:
            return self._foreseeing.foresees(in_flight.step.size)
        except Exception as error:
            self._complain(f"failed to foresee drafts: {cause(error)}", error)
            return True

    def _tell(self, lengths: DraftLengths, *drafted: Any) -> None:
        try:
            lengths.learn_drafter(*drafted)
        except Exception as error:
            self._complain(f"failed to learn lengths: {cause(error)}", error)

    def _is_price(self, run: DraftedStep, wanted: NDArray[np.int64]) -> bool:
        """Whether the drafter's time says what drafts cost, or following: that of prompts and of ends is neither."""
        return not run.prompts and (self._follows or bool(wanted.any()))

    def _run(self, in_flight: InFlightStep, seconds: float) -> DraftedStep:
        """What is to be known of a step, of which drafts that had to stand say nothing."""
        step = in_flight.step
        run = DraftedStep(
            rows=int((step.stops - step.starts).sum()),
            seconds=seconds,
            prompts=in_flight.prompt_tokens > 0,
            sequences=in_flight.drawing,
            slots=in_flight.slots,
            steps=1 + self._slept,
        )
        if in_flight.step.drafts is not None:
            run.tried, run.stood = in_flight.verified()
            if self._any_forced:
                certain = np.array([sequence.certain_drafts for sequence in in_flight.drawing], dtype=np.int64)
                run.tried, run.stood = np.maximum(run.tried - certain, 0), np.maximum(run.stood - certain, 0)
        return run

    def _forced(self, in_flight: InFlightStep) -> list[tuple[Sequence, list[int]]]:
        """The tokens that grammars leave no choice about, of those who have such: they are right without a drafter."""
        ledger, found = in_flight.step.ledger, []
        for i in np.flatnonzero(ledger.needs_check[in_flight.slots] & ledger.alive[in_flight.slots]).tolist():
            sequence = in_flight.drawing[i]
            most = min(self.most, sequence.limit - sequence.length - 1)
            if sequence.grammar is not None and most > 0 and self._may_have_drafts(sequence):
                tokens = sequence.grammar.forced(most)
                if tokens:
                    found.append((sequence, tokens))
        self._any_forced |= bool(found)
        return found

    def _may_have_drafts(self, sequence: Sequence) -> bool:
        """Whether its samplers go with drafts, and these can be held to what its text is constrained to."""
        if any(params in sequence.params for params in self._undrafted):
            return False
        constraint = sequence.request.params.constraint
        return constraint is None or self._rolls_back(constraint.backend)

    def _enter(
        self, step: Step, wanted: NDArray[np.int64], found: SequenceOf[SequenceOf[int]], draw: DraftDraw
    ) -> NDArray[np.int64]:
        """Gives sequences their drafts; returns how many each has."""
        proposed = np.zeros_like(wanted)
        for i in np.flatnonzero(wanted).tolist():
            sequence = step.sequences[i]
            drafts = self._cut(sequence, found[i][: int(wanted[i])]) if found else []
            probs = self._probs(sequence, found[i], draw)[: len(drafts)] if drafts else []
            sequence.forget_drafts()
            if drafts:
                proposed[i] = len(drafts)
                sequence.draft(drafts, probs if any(each is not None for each in probs) else ())
                sequence.room = 0  # the plan must look: it needs pages for them
        return proposed

    def _probs(self, sequence: Sequence, found: SequenceOf[int], draw: DraftDraw) -> SequenceOf[DrawnFrom | None]:
        """What drafts were drawn from, where that is of use: a seed draws as if there were none.

        Drafts that were drawn without the grammar are another distribution when it has cut them.
        """
        if not isinstance(found, Drafts):
            return draw.probs(sequence, found)
        if sequence.seed is not None or sequence.grammar is not None:
            return ()
        return [DrawnFrom(found.probs, row) for row in range(len(found))]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Steps have no drafts meanwhile: how long they take by their rows is learned."""
        self._learned = 1
        try:
            with nullcontext() if self._lengths is None else self._lengths.measuring():
                yield
        finally:
            self._learned = LEARNED

    @property
    def adapts(self) -> bool:
        """Whether it matters how long steps take."""
        return self._lengths is not None

    def insist(self) -> None:
        """PluginError with the first thing that the drafter did wrong so far."""
        if self._complaint is not None:
            raise PluginError(self._complaint)

    def _wanted(self, in_flight: InFlightStep, most: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The most drafts for each: none is worth it behind the last token that may be drawn."""
        step, ledger = in_flight.step, in_flight.step.ledger
        wanted: NDArray[np.int64] = np.zeros(step.size, dtype=np.int64)
        left = ledger.limit[in_flight.slots] - in_flight.lengths - 1
        wanted[step.draws] = np.where(ledger.alive[in_flight.slots], np.minimum(np.maximum(left, 0), most), 0)
        in_question = wanted > 0 if self._undrafted else ledger.needs_check[step.slots] & (wanted > 0)
        for i in np.flatnonzero(in_question).tolist():
            if not self._may_have_drafts(step.sequences[i]):
                wanted[i] = 0
        if self._room is not None:
            self._room.take(in_flight, wanted)
        return wanted

    def _ask(self, step: DraftStep) -> SequenceOf[SequenceOf[int]]:
        try:
            found = self._drafter.propose(step)
            if len(found) != len(step.sequences):
                raise ValueError(f"propose returned drafts for {len(found)} sequences of {len(step.sequences)}")
            return [self._checked(drafts) for drafts in found] if step.wanted.any() else ()
        except Exception as error:
            self._complain(f"failed: {cause(error)}", error)
            return ()

    def _checked(self, drafts: SequenceOf[int]) -> SequenceOf[int]:
        """The drafts as numbers; ValueError for distributions that are none."""
        if not isinstance(drafts, Drafts):
            return [int(token) for token in drafts]
        tokens, probs = [int(token) for token in drafts], drafts.probs.float()
        if probs.shape != (len(tokens), self._vocab_size):
            raise ValueError(f"probs of {len(tokens)} drafts are {list(probs.shape)}, not by {self._vocab_size} tokens")
        sums = probs.sum(dim=-1)
        if not bool((probs >= 0).all() & ((sums - 1).abs() < PROBS_TOLERANCE).all()):
            raise ValueError("probs of drafts are no distributions: each row is to sum to 1, with nothing below 0")
        return Drafts(tokens, probs / sums[:, None])

    def _cut(self, sequence: Sequence, drafts: SequenceOf[int]) -> list[int]:
        """The drafts that can be verified: tokens that there are, that the grammar allows, up to one that ends it."""
        kept: list[int] = []
        for token in drafts:
            if not 0 <= token < self._vocab_size:
                self._complain(f"proposed the token {token}, the vocabulary has {self._vocab_size}")
                break
            kept.append(token)
            if token in sequence.ends:
                break
        if sequence.grammar is None:
            return kept
        return kept[: sequence.grammar.allows(kept)]

    def _complain(self, what: str, error: Exception | None = None) -> None:
        if self._complaint is None:
            self._complaint = f"{self._title} {what}"
            log.error("%s; the steps go on without its drafts; logged once", self._complaint, exc_info=error)


def _put_first(sequence: Sequence, forced: list[int]) -> None:
    """Drafts begin with tokens that are certain; what was proposed goes on from there, or is about another text."""
    drafts, probs = sequence.drafts, sequence.draft_probs
    if drafts[: len(forced)] != forced:
        drafts, probs = forced, ()
    sequence.draft(drafts, probs, certain=len(forced))
    sequence.room = 0
