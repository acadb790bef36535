"""From logits to tokens: the transforms of the samplers by stage, then the draw.

The draw belongs to the core. It needs one uniform number per row, taken from the generator of the row's own request,
so that a seed gives the same text whatever else runs in the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, overload

import msgspec
import numpy as np
import torch

from maxserve.core.engine.grammar import Mask, Masks
from maxserve.core.engine.logprobs import Scores
from maxserve.core.engine.sequence import DraftNumbers, DrawnFrom
from maxserve.core.engine.step import FAILED, INVALID, NO_ALLOWED_TOKEN
from maxserve.core.engine.verification import DrawnDrafts, Verification, draw_by_weights
from maxserve.core.interfaces.errors import cause
from maxserve.core.interfaces.request import TokenLogprob
from maxserve.core.interfaces.sampler import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from maxserve.core.engine.grammar_state import GrammarState
    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces.sampler import LogitTransform

    # A table for distributions like these logits, and the row from which on it has room for them.
    Room = Callable[[torch.Tensor], tuple[torch.Tensor, int]]

log = logging.getLogger("maxserve.engine")


class Stage(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One transform in the pipeline; optional methods are looked up here, once."""

    name: str
    transform: LogitTransform[Any]
    keeps_argmax: bool
    steady: bool
    params: type[Any] | None
    greedy: Callable[[Rows], SequenceOf[bool]] | None
    observe: Callable[[Rows, SequenceOf[int]], None] | None

    def apply(self, logits: torch.Tensor, state: Any) -> torch.Tensor:
        """The transform's new logits; ValueError unless they are float32 and of the same shape."""
        changed = self.transform.apply(logits, state)
        if changed.shape != logits.shape or changed.dtype != logits.dtype:
            raise ValueError(
                f"apply returned {list(changed.shape)} {changed.dtype} for {list(logits.shape)} {logits.dtype}"
            )
        return changed

    def asking(self, rows: Rows) -> SequenceOf[int]:
        """The rows that this stage works for: all of them where no request field asks for it."""
        return range(len(rows)) if self.params is None else rows.asking(self.params)

    @classmethod
    def of(cls, name: str, transform: Any, *, keeps_argmax: bool, params: type[Any] | None = None) -> Stage:
        return cls(
            name=name,
            transform=transform,
            keeps_argmax=keeps_argmax,
            steady=bool(getattr(transform, "steady", False)),
            params=params,
            greedy=transform.greedy if hasattr(transform, "greedy") else None,
            observe=transform.observe if hasattr(transform, "observe") else None,
        )


class Wanted:
    """Which rows' logprobs are wanted, each with how many likeliest tokens beside the drawn one."""

    def __init__(self, counts: Mapping[int, int], *, rows: int) -> None:
        self._counts = counts
        self._rows = None if len(counts) == rows else torch.tensor(list(counts))

    def raw(self, logits: torch.Tensor) -> torch.Tensor:
        """The model's logits of the rows, which no transform can reach any more."""
        return logits.clone() if self._rows is None else logits[self._rows.to(logits.device)]

    def scores(self, raw: torch.Tensor, tokens: torch.Tensor) -> Scores:
        chosen = tokens if self._rows is None else tokens[self._rows.to(tokens.device)]
        return Scores.of(raw, chosen.clamp(min=0), max(self._counts.values())).sent()

    def read(self, scores: Scores) -> dict[int, TokenLogprob]:
        return dict(zip(self._counts, scores.read(list(self._counts.values())), strict=True))


class SamplingBatch:
    """Who draws together, and what of that does not change while the same do: answers of steady stages.

    With `drafts`, a sequence that has some has several rows in a row, each with one draft more behind its tokens. With
    `ahead` each has one row, for the draft that comes next, behind those that it has.
    """

    def __init__(
        self, sequences: SequenceOf[Sequence], device: torch.device, *, drafts: bool = False, ahead: bool = False
    ) -> None:
        self.sequences = sequences
        self._offsets = _offsets(sequences) if drafts else None
        self.rows = Rows(
            [s.params for s in sequences],
            _HistoriesAhead(sequences) if ahead else _Histories(sequences, self._offsets),
            [s.prompt_length for s in sequences],
            device,
            [s.ends for s in sequences],
            sequences,
        )
        self.grammars = {i: grammar for i, s in enumerate(sequences) if (grammar := s.grammar) is not None}
        wanted = {i: n for i, s in enumerate(sequences) if (n := s.request.params.logprobs) is not None}
        self.wanted = Wanted(wanted, rows=len(sequences)) if wanted else None
        self.failures: dict[Stage, Exception] = {}  # of stages that raised before the logits were there
        self._drawing: tuple[NDArray[np.int64], torch.Tensor] | None = None
        self._untouched: NDArray[np.bool_] | None = None
        self._states: dict[str, Any] = {}

    def drafts(self) -> dict[int, int] | None:
        """The drafts that lead to rows; None where there are none."""
        if self._offsets is None:
            return None
        pairs = enumerate(zip(self.sequences, self._offsets, strict=True))
        return {row: sequence.drafts[offset - 1] for row, (sequence, offset) in pairs if offset}

    def drawn_drafts(self, drawing: NDArray[np.int64]) -> DrawnDrafts | None:
        """The drafts that were drawn from a known distribution, where these rows are; None where there are none."""
        if self._offsets is None or not any(sequence.draft_probs for sequence in self.sequences):
            return None
        found = []
        for index, row in enumerate(drawing.tolist()):
            sequence, offset = self.sequences[row], self._offsets[row]
            probs = sequence.draft_probs[offset] if offset < len(sequence.draft_probs) else None
            if probs is not None and offset < len(sequence.drafts):
                uniform = sequence.draft_number(DraftNumbers.ACCEPT, offset)
                found.append((index, sequence.drafts[offset], uniform, probs))
        return DrawnDrafts.of(found) if found else None

    def drawing(self, stages: SequenceOf[Stage]) -> tuple[NDArray[np.int64], torch.Tensor]:
        """The rows that no stage wants to take their likeliest token without a draw; on the device, too."""
        if self._drawing is not None:
            return self._drawing
        asked = [stage for stage in stages if stage.greedy is not None]
        greedy = np.zeros(len(self.sequences), dtype=np.bool_)
        for stage in asked:
            assert stage.greedy is not None
            try:
                greedy |= np.asarray(stage.greedy(self.rows), dtype=np.bool_)
            except Exception as error:
                self.failures[stage] = error
        rows = np.flatnonzero(~greedy)
        found = rows, torch.from_numpy(rows).to(self.rows.device, non_blocking=True)
        if all(stage.steady for stage in asked):
            self._drawing = found
        return found

    def untouched(self, stages: SequenceOf[Stage]) -> NDArray[np.bool_]:
        """The rows that take the likeliest token of the logits as they are, [rows]."""
        if self._untouched is not None:
            return self._untouched
        found = np.ones(len(self.sequences), dtype=np.bool_)
        found[self.drawing(stages)[0]] = False
        found[list(self.grammars)] = False
        for stage in stages:
            if not stage.keeps_argmax:
                found[list(stage.asking(self.rows))] = False
        if self._drawing is not None:  # and so it is kept
            self._untouched = found
        return found

    def state(self, stage: Stage) -> Any:
        """What the stage's `prepare` gives; it is not asked when no request asks for it."""
        if stage.name in self._states:
            return self._states[stage.name]
        idle = stage.params is not None and not self.rows.asked(stage.params)
        try:
            state = None if idle else stage.transform.prepare(self.rows)
        except Exception as error:
            self.failures[stage] = error
            return None
        if idle or stage.steady:
            self._states[stage.name] = state
        return state


class DraftsAhead(msgspec.Struct):
    """A draft for each row, in `tokens`, below 0 where there is nothing to choose from.

    Those that were drawn lie in the `table` from `start` on, by `rows`; `possible` says which are more than rounding.
    `rows` are those whose distributions are wanted, with their indices among those that were drawn.
    """

    tokens: torch.Tensor
    table: torch.Tensor | None = None
    start: int = 0
    possible: torch.Tensor | None = None
    rows: Mapping[int, int] = msgspec.field(default_factory=dict)

    def read(self) -> tuple[list[int], dict[int, DrawnFrom]]:
        """The tokens, and by row what they were drawn from: waits for the device, once."""
        if self.table is None or self.possible is None or not self.rows:
            return self.tokens.tolist(), {}
        sent: list[int] = torch.cat((self.tokens, self.possible)).tolist()
        tokens, possible = sent[: len(self.tokens)], sent[len(self.tokens) :]
        pairs = ((row, at) for row, at in self.rows.items() if tokens[row] >= 0 and possible[at])
        return tokens, {row: DrawnFrom(self.table, self.start + at) for row, at in pairs}


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """A draw that lacks nothing but the logits. `drawing` are the rows that are not greedy, None when all are.

    `drafts` are those of them whose tokens are to be drafts as often as they can.
    """

    batch: SamplingBatch
    states: SequenceOf[tuple[Stage, Any]]
    drawing: torch.Tensor | None = None
    uniforms: torch.Tensor | None = None
    mask: Mask | None = None
    drafts: DrawnDrafts | None = None
    failures: dict[Stage, Exception] = msgspec.field(default_factory=dict)

    @property
    def wanted(self) -> Wanted | None:
        return self.batch.wanted

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, Scores | None]:
        """One token per row of logits [rows, vocab] and the wanted logprobs; runs on the device of the logits.

        A row without a choice gets INVALID or NO_ALLOWED_TOKEN.
        """
        raw = None if self.wanted is None else self.wanted.raw(logits)
        tokens = self._tokens(logits.float(), inverse_cdf if self.drafts is None else self.drafts.draw)
        return tokens, None if self.wanted is None or raw is None else self.wanted.scores(raw, tokens)

    @torch.inference_mode()
    def propose(self, logits: torch.Tensor, room: Room) -> DraftsAhead:
        """One token per row, and what those that are drawn are drawn from, kept where there is `room`."""
        found: list[tuple[torch.Tensor, int]] = []

        def draw(rows: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
            table, start = room(rows)
            found.append((table, start))
            probs = torch.softmax(rows, dim=-1, out=table[start : start + len(rows)])
            return draw_by_weights(probs, uniforms)

        tokens = self._tokens(logits.float(), draw)
        if not found or self.drawing is None:
            return DraftsAhead(tokens)
        table, start = found[0]
        probs, chosen = table[start : start + len(self.drawing)], tokens[self.drawing].clamp(min=0)
        return DraftsAhead(tokens, table, start, probs.gather(1, chosen[:, None])[:, 0] > 0)

    def read(self, scores: Scores | None) -> Mapping[int, TokenLogprob]:
        """What `choose` gave beside the tokens, by row."""
        return {} if self.wanted is None or scores is None else self.wanted.read(scores)

    def uniforms_by_row(self) -> dict[int, float]:
        """The random numbers that rows were drawn with."""
        if self.drawing is None or self.uniforms is None:
            return {}
        return dict(zip(self.drawing.tolist(), self.uniforms.tolist(), strict=True))

    def faults(self) -> dict[Sequence, str]:
        """The sequences that asked for a stage which raised, with its error: the others drew without it."""
        failures = {**self.batch.failures, **self.failures}
        return {s: text for stage, error in failures.items() for s, text in _blamed(self.batch, stage, error)}

    def _tokens(self, logits: torch.Tensor, draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if self.mask is not None:
            logits = self.mask.apply(logits)
        fallback = self.mask.likeliest(logits) if self.mask is not None and self.states else None
        may_bar = any(not stage.keeps_argmax for stage, _ in self.states)
        possible = logits.amax(dim=-1).isfinite() if may_bar else None
        for stage, state in self.states:
            try:
                logits = stage.apply(logits, state)
            except Exception as error:
                self.failures[stage] = error
        if self.mask is not None and self.states:
            logits = self.mask.apply(logits)
        best, tokens = self._chosen(logits, draw)
        if not _known_finite(best):
            none = INVALID if possible is None else torch.where(possible & ~best.isnan(), NO_ALLOWED_TOKEN, INVALID)
            tokens = torch.where(best.isfinite(), tokens, none)
        return tokens if self.mask is None or fallback is None else self.mask.settle(tokens, fallback)

    def _chosen(
        self, logits: torch.Tensor, draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The highest logit of each row, and its token."""
        if self.drawing is None or self.uniforms is None:
            return likeliest(logits)
        if len(self.drawing) == len(logits):
            return logits.amax(dim=-1), draw(logits, self.uniforms)
        best, tokens = likeliest(logits)
        tokens[self.drawing] = draw(logits[self.drawing], self.uniforms)
        return best, tokens


class Pipeline:
    """Draws the next token of each sequence. `stages` come sorted."""

    def __init__(self, stages: SequenceOf[Stage], device: torch.device) -> None:
        self._stages = tuple(stages)
        self._device = device
        self._masks = Masks(device)
        self._batch = SamplingBatch((), device)
        self._batch_ahead = SamplingBatch((), device, ahead=True)

    def decide(self, logits: torch.Tensor, in_flight: InFlightStep) -> None:
        """Gives a step its tokens, by the logits of its rows."""
        if in_flight.step.drafts is not None:
            self._verify(logits, in_flight)
            return
        in_flight.tokens, in_flight.logprobs, faults = self.draw(logits, in_flight.drawing)
        in_flight.fail(faults)

    def draw(
        self, logits: torch.Tensor, sequences: SequenceOf[Sequence]
    ) -> tuple[NDArray[np.int64], Mapping[int, TokenLogprob], dict[Sequence, str]]:
        """One token per row of logits [rows, vocab], INVALID where the logits allow none; the wanted logprobs; faults.

        A fault is what went wrong with a sampler, by the sequences that asked for it.
        """
        draw = self.prepare(sequences)
        chosen, scores = draw.choose(logits)
        tokens: NDArray[np.int64] = chosen.cpu().numpy()  # waits for the device, and so for the scores
        heard = self.observe(sequences, tokens)
        return tokens, draw.read(scores), draw.faults() | heard

    def _verify(self, logits: torch.Tensor, in_flight: InFlightStep) -> None:
        """Draws for the rows of a step with drafts, and gives it the tokens that stand."""
        verification = Verification(in_flight.step)
        draw = self._plain_draw(in_flight.drawing) or self.prepare(verification.rows, drafts=True)
        chosen, scores = draw.choose(logits)
        tokens, logprobs, faults = chosen.cpu().numpy(), draw.read(scores), draw.faults()
        if faults:
            tokens = np.where([sequence in faults for sequence in verification.rows], FAILED, tokens)
        verification.accept(tokens.tolist(), draw.uniforms_by_row())
        accepted = verification.accepted
        owners = [verification.rows[row] for row in accepted]
        in_flight.tokens = tokens[accepted]
        in_flight.logprobs = {i: logprobs[row] for i, row in enumerate(accepted) if row in logprobs}
        in_flight.accept(owners, verification.counts)
        in_flight.fail(faults | self.observe(owners, in_flight.tokens, drafts=True))

    def _plain_draw(self, sequences: SequenceOf[Sequence]) -> Draw | None:
        """That of the likeliest token of each row, where nothing else is wanted of any."""
        batch = self._batch_before(sequences)
        plain = batch.wanted is None and batch.untouched(self._stages).all() and not batch.failures
        return Draw(batch=batch, states=()) if plain else None

    def prepare(self, sequences: SequenceOf[Sequence], *, drafts: bool = False) -> Draw:
        """All of the draw that is done on the host, from what is known of the sequences now: uses up their numbers.

        One row for each sequence; with `drafts`, for those that have some the rows of these follow it.
        """
        batch = self._batch_of(sequences, drafts=drafts)
        mask = self._masks.of(batch.grammars, len(sequences), batch.drafts())
        drawing, sent = batch.drawing(self._stages)
        states = self._states(batch, drawing)
        if not len(drawing):
            return Draw(batch=batch, states=states, mask=mask)
        uniforms = torch.from_numpy(_uniforms(sequences, drawing)).to(self._device, non_blocking=True)
        drawn = batch.drawn_drafts(drawing) if drafts else None
        return Draw(batch=batch, states=states, drawing=sent, uniforms=uniforms, mask=mask, drafts=drawn)

    def untouched(self, sequences: SequenceOf[Sequence]) -> NDArray[np.bool_]:
        """Which of them take the likeliest token of the logits as they are, [sequences]."""
        return self._batch_before(sequences).untouched(self._stages)

    def _batch_before(self, sequences: SequenceOf[Sequence]) -> SamplingBatch:
        """The batch that draws drafts."""
        if self._batch_ahead.sequences is not sequences and self._batch_ahead.sequences != sequences:
            self._batch_ahead = SamplingBatch(sequences, self._device, ahead=True)
        return self._batch_ahead

    def draw_drafts(
        self, logits: torch.Tensor, sequences: SequenceOf[Sequence], grammars: Mapping[int, GrammarState], room: Room
    ) -> DraftsAhead:
        """The next draft of each sequence, by a drafter's logits [rows, vocab], as its tokens are drawn.

        `grammars` are the states of rows behind their drafts. Where a request has no seed, the draft has a random
        number of its own, and what it was drawn from is kept where `room` says; where it has one, that with which the
        token will be drawn. A stage that fails is left out.
        """
        batch = self._batch_before(sequences)
        mask = self._masks.of(grammars, len(sequences))
        drawing, sent = batch.drawing(self._stages)
        states = self._states(batch, drawing)
        if not len(drawing):
            return Draw(batch=batch, states=states, mask=mask).propose(logits, room)
        rows = drawing.tolist()
        uniforms = torch.tensor([_draft_uniform(sequences[row]) for row in rows], dtype=torch.float64)
        draw = Draw(batch=batch, states=states, drawing=sent, uniforms=uniforms.to(self._device), mask=mask)
        found = draw.propose(logits, room)
        found.rows = {row: i for i, row in enumerate(rows) if sequences[row].seed is None}
        return found

    def _states(self, batch: SamplingBatch, drawing: NDArray[np.int64]) -> list[tuple[Stage, Any]]:
        """The stages that have something to do, with what they prepared."""
        states = []
        for stage in self._stages:
            if len(drawing) or not stage.keeps_argmax:
                state = batch.state(stage)
                if state is not None:
                    states.append((stage, state))
        return states

    def observe(
        self, sequences: SequenceOf[Sequence], tokens: NDArray[np.int64], *, drafts: bool = False
    ) -> dict[Sequence, str]:
        """Gives the drawn tokens to the stages that observe them; returns the faults of those that raise."""
        faults: dict[Sequence, str] = {}
        for stage in self._stages:
            if stage.observe is not None:
                batch = self._batch_of(sequences, drafts=drafts)
                try:
                    stage.observe(batch.rows, tokens.tolist())
                except Exception as error:
                    faults.update(_blamed(batch, stage, error))
        return faults

    def _batch_of(self, sequences: SequenceOf[Sequence], *, drafts: bool = False) -> SamplingBatch:
        if self._batch.sequences is not sequences and self._batch.sequences != sequences:
            self._batch = SamplingBatch(sequences, self._device, drafts=drafts)
        return self._batch


def _blamed(batch: SamplingBatch, stage: Stage, error: Exception) -> Iterator[tuple[Sequence, str]]:
    rows = stage.asking(batch.rows)
    log.error(
        "sampler %r failed for %d of %d requests of a step", stage.name, len(rows), len(batch.rows), exc_info=error
    )
    for row in rows:
        yield batch.sequences[row], f"the sampler {stage.name!r} failed: {cause(error)}"


def _uniforms(sequences: SequenceOf[Sequence], drawing: NDArray[np.int64]) -> NDArray[np.float64]:
    rows = sequences if len(drawing) == len(sequences) else [sequences[i] for i in drawing.tolist()]
    return np.array([s.uniforms.pop() if s.uniforms else s.uniform() for s in rows], dtype=np.float64)


def _draft_uniform(sequence: Sequence) -> float:
    """The number that the next draft of a sequence is drawn with."""
    ahead = len(sequence.drafts)
    return sequence.draft_number(DraftNumbers.DRAW, ahead) if sequence.seed is None else sequence.peek(ahead)


def _offsets(sequences: SequenceOf[Sequence]) -> list[int]:
    """How many rows of the same sequence come before each."""
    offsets: list[int] = []
    for row, sequence in enumerate(sequences):
        offsets.append(offsets[-1] + 1 if row and sequences[row - 1] is sequence else 0)
    return offsets


class _Histories(SequenceOf["NDArray[np.int64]"]):
    """The tokens of each sequence, looked up when a transform asks: most never do."""

    def __init__(self, sequences: SequenceOf[Sequence], offsets: SequenceOf[int] | None = None) -> None:
        self._sequences = sequences
        self._offsets = offsets  # drafts behind the tokens of each

    def __len__(self) -> int:
        return len(self._sequences)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, index: slice) -> SequenceOf[NDArray[np.int64]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | SequenceOf[NDArray[np.int64]]:
        if isinstance(index, slice):
            return [self._tokens(i) for i in range(*index.indices(len(self)))]
        return self._tokens(index)

    def _tokens(self, index: int) -> NDArray[np.int64]:
        sequence = self._sequences[index]
        return sequence.tokens if self._offsets is None else sequence.drafted(self._offsets[index])


class _HistoriesAhead(_Histories):
    """The tokens of each sequence with all drafts that it has."""

    def _tokens(self, index: int) -> NDArray[np.int64]:
        sequence = self._sequences[index]
        return sequence.drafted(len(sequence.drafts))


def _known_finite(values: torch.Tensor) -> bool:
    """Whether none is NaN or infinite, as far as can be known without waiting for a device."""
    return values.device.type == "cpu" and bool(np.isfinite(values.numpy()).all())


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest logit of each row [rows, vocab] and the first token that has it; NaN goes before all others."""
    if logits.device.type != "cpu":
        best, tokens = logits.max(dim=-1)
        return best, tokens
    array = logits.numpy()  # whose search takes half of the time of torch's
    found = array.argmax(axis=-1)
    return torch.from_numpy(array[np.arange(len(found)), found]), torch.from_numpy(found)


def inverse_cdf(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulated probability first exceeds each row's uniform number in [0, 1)."""
    return draw_by_weights(logits.softmax(dim=-1), uniforms)
