"""The drafts of sequences: asked of the drafter after each step, and cut to what can be verified."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from maxserve.core.engine.draft_lengths import DraftLengths
from maxserve.core.engine.draft_models import LoadedDrafts
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.speculator import DraftNeeds, DraftStep, NeedsContext, SpeculatorContext
from maxserve.core.registry.entries import cause

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.config import Settings
    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.engine.inputs import InputsBuilder
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step
    from maxserve.core.engine.target import Loaded, Target
    from maxserve.core.interfaces.architecture import ModelSpec
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.runner import ModelOutput
    from maxserve.core.interfaces.speculator import Drafter, Speculator
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.engine")


class DraftRoom:
    """The pages for what a drafter with layers writes behind the known tokens."""

    def __init__(self, cache: Cache, page_size: int) -> None:
        self._cache = cache
        self._page_size = page_size

    def take(self, in_flight: InFlightStep, wanted: NDArray[np.int64]) -> None:
        """Reserves pages, and cuts `wanted` where there are none that no sequence may need in the next step."""
        size, spare = self._page_size, self._cache.sizes().available - in_flight.step.size
        for i in np.flatnonzero(wanted).tolist():
            known, end = int(in_flight.stops[i]), int(in_flight.stops[i] + wanted[i])
            spare -= -(-end // size) - -(-known // size)
            if spare < 0 or not self._cache.reserve(int(in_flight.rows[i]), end):
                wanted[i] = min(int(wanted[i]), -known % size)


class Drafting:
    """Gives sequences their drafts. A drafter that fails costs speed, and no request anything else.

    `rolls_back` says of a grammar back end whether its matchers can take tokens back; with others there are none.
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
    ) -> None:
        self._drafter = drafter
        self._title = title
        self.most = draft_tokens
        self._vocab_size = vocab_size
        self._rolls_back = rolls_back
        self._follows = follows
        self._room = room
        self._lengths = lengths
        self._complaint: str | None = None

    def propose(
        self, in_flight: InFlightStep, builder: InputsBuilder, inputs: StepInputs, output: ModelOutput, seconds: float
    ) -> None:
        """Has drafts proposed for the next step of those who have drawn and live on; the last one took `seconds`."""
        step, lengths = in_flight.step, self._lengths
        if step.drafts is not None:
            for sequence in step.sequences:
                sequence.drafts = []
        most: NDArray[np.int64] | int | None = self.most
        if lengths is not None:
            lengths.learn(in_flight, len(inputs.input_ids), seconds)
            most = lengths.choose(in_flight)
        alive = step.ledger.alive[step.slots]
        if most is None and not self._follows and alive.all():
            return
        wanted = self._wanted(in_flight, 0 if most is None else most)
        begun = time.perf_counter()
        found = self._ask(
            DraftStep(
                inputs=inputs,
                output=output,
                sequences=step.sequences,
                kept=np.where(alive, in_flight.stops - step.starts, 0),
                wanted=wanted,
                passes=partial(builder.build_pass, step),
            )
        )
        taken = time.perf_counter() - begun
        proposed = self._enter(step, wanted, found)
        if (
            lengths is not None and wanted.any() and not in_flight.prompt_tokens
        ):  # to follow prompts is no draft's price
            lengths.learn_asking(step.slots, wanted, proposed, taken)

    def _enter(self, step: Step, wanted: NDArray[np.int64], found: SequenceOf[SequenceOf[int]]) -> NDArray[np.int64]:
        """Gives sequences their drafts; returns how many each has."""
        proposed = np.zeros_like(wanted)
        for i in np.flatnonzero(wanted).tolist() if found else ():
            sequence = step.sequences[i]
            drafts = self._cut(sequence, found[i][: int(wanted[i])])
            if drafts:
                proposed[i] = len(drafts)
                sequence.draft(drafts)
                sequence.room = 0  # the plan must look: it needs pages for them
        return proposed

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Steps have no drafts meanwhile: how long they take by their rows is learned."""
        with nullcontext() if self._lengths is None else self._lengths.measuring():
            yield

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
        if self._room is not None:
            self._room.take(in_flight, wanted)
        return wanted

    def _ask(self, step: DraftStep) -> SequenceOf[SequenceOf[int]]:
        try:
            found = self._drafter.propose(step)
            if len(found) != len(step.sequences):
                raise ValueError(f"propose returned drafts for {len(found)} sequences of {len(step.sequences)}")
            return [[int(token) for token in drafts] for drafts in found]
        except Exception as error:
            self._complain(f"failed: {cause(error)}", error)
            return ()

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
        constraint = sequence.request.params.constraint
        if sequence.grammar is None or constraint is None:
            return kept
        return kept[: sequence.grammar.allows(kept)] if self._rolls_back(constraint.backend) else []

    def _complain(self, what: str, error: Exception | None = None) -> None:
        if self._complaint is None:
            self._complaint = f"{self._title} {what}"
            log.error("%s; the steps go on without its drafts; logged once", self._complaint, exc_info=error)


def choose_speculator(settings: Settings, host: Host) -> Entry[Speculator] | None:
    """The speculative method that was named; PluginError when there is none of that name."""
    name = settings.speculative.speculative_method
    return None if name is None else host.speculators.get(name)


def draft_needs(target: Target, spec: ModelSpec, files: ModelFiles, models: LoadedDrafts) -> DraftNeeds:
    """What the drafter needs beside its own objects; nothing where none was named."""
    context = NeedsContext(
        sections=target.sections,
        spec=spec,
        raw=files.config,
        path=files.path,
        draft_tokens=target.settings.speculative.num_speculative_tokens,
        models=models,
        components=target.host,
    )
    entry = target.speculator
    if entry is None:
        _offer(target.host, context, files.companions)
    if entry is None or entry.component.needs is None:
        return DraftNeeds()
    found: DraftNeeds = target.host.load(entry, entry.component.needs)(context)
    return found


def _offer(host: Host, context: NeedsContext, companions: Collection[str]) -> None:
    """Says which methods would find in the target's checkpoint, or with it, what they draft with."""
    for method in companions:
        log.info("the model brings what it can be drafted with; --speculative-method %s drafts with it", method)
    for entry in host.speculators:
        if entry.component.offers is not None:
            offer: str | None = host.load(entry, entry.component.offers)(context)
            if offer is not None:
                log.info("%s; --speculative-method %s drafts with it", offer, entry.name)


def build_drafting(target: Target, loaded: Loaded, attention: Attention, cache: Cache) -> Drafting | None:
    """The drafts of an engine; None where no speculative method was named."""
    entry = target.speculator
    if entry is None:
        return None
    drafts = target.settings.speculative.num_speculative_tokens
    first = len(loaded.spec.cache_layers)
    context = SpeculatorContext(
        sections=target.sections,
        draft_tokens=drafts,
        model=loaded.model,
        spec=loaded.spec,
        attention=attention,
        first_layer=first,
        vocab_size=loaded.spec.vocab_size,
        max_length=loaded.plan.max_length,
        step_tokens=target.settings.scheduling.max_batch_input_tokens,
        dtype=target.compute,
        device=target.device,
        path=loaded.files.path,
        components=target.host,
        models=LoadedDrafts(
            target=target,
            own=loaded.files,
            attention_of_target=attention,
            first_layer=first,
            found=loaded.draft_files,
        ),
    )
    return Drafting(
        target.host.build(entry, context),
        title=str(entry),
        draft_tokens=drafts,
        vocab_size=loaded.spec.vocab_size,
        rolls_back=lambda name: target.host.grammar_backends.get(name).component.rollback,
        follows=bool(loaded.needs.layers or loaded.needs.aux_layers),
        room=DraftRoom(cache, loaded.plan.page_size) if loaded.needs.layers else None,
        lengths=DraftLengths(drafts) if target.settings.speculative.adaptive_speculation else None,
    )
