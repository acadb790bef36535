"""Drafting with a head on top of the target (methods `eagle` and `mtp`).

At position i the head reads what the target has computed there and the embedding of token i + 1, and predicts token
i + 2 (Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty", 2024). It follows the target
over all its tokens, prompts included, so its keys are there wherever the target's are; for further drafts it goes on
from its own results, a row of each sequence at a time, at positions that the target's next step writes over. Prompts it
follows at once. Of a text that wants no drafts, what the target has computed is kept, and followed when some are
wanted, or when there is no more room for it. Texts that begin while no drafts are foreseen are not followed but for
their prompts, as far as other texts may begin with these.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from maxserve.interfaces.runner import ModelOutput
from maxserve.interfaces.speculator import DraftsAtOnce
from maxserve.interfaces.step_context import StepContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from maxserve.interfaces.inputs import StepInputs
    from maxserve.interfaces.speculator import DraftHead, DraftStep, SpeculatorContext

    Ints = NDArray[np.int64]


SAMPLED = 512  # texts that begin while no drafts are foreseen, one of which is followed to see whether some would stand
UNSEEN = 256  # calls in which a sequence that goes on is there at least once
MERGED = 16  # rows of a sequence that come with its next ones; more are followed in a pass of their own
MOST = 2  # rows of which one stands: then they are combined before some of them are chosen
MOST_BYTES = 64 << 20  # of what is kept for later


class Run(msgspec.Struct):
    """Rows of steps one after another that had the same sequences: `counts` [n] of each from `starts` [n] on.

    They lie from `row` on, step by step. Where there are several `steps`, each has one row of each sequence.
    """

    ids: list[str]
    starts: Ints
    counts: Ints
    row: int
    steps: int = 1

    def goes_on(self, ids: list[str], starts: Ints, counts: Ints) -> bool:
        """Whether a step of these comes next to it."""
        if ids != self.ids or not (counts == 1).all() or not (self.counts == 1).all():
            return False
        return bool((starts == self.starts + self.steps).all())

    def rows(self, index: int) -> list[int]:
        """Those of one of its sequences."""
        first = self.row + int(self.counts[:index].sum())
        if self.steps == 1:
            return list(range(first, first + int(self.counts[index])))
        return list(range(first, first + self.steps * len(self.ids), len(self.ids)))


class Behind:
    """What the target has computed and the head has not followed yet: rows of sequences, up to some number of them.

    Memory is used again once all of it was followed or forgotten.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._kept: list[torch.Tensor] = []  # hidden states and outputs of layers, each [rows, dim]
        self._count = 0  # rows of these that are taken
        self._runs: list[Run] = []
        self._from: dict[str, int] = {}  # by sequence that has rows: the first run that counts

    def fits(self, count: int, output: ModelOutput) -> bool:
        """Whether there is room for so many more rows."""
        if not self._kept:
            parts = (output.hidden, *output.aux_hidden)
            size = sum(each.shape[-1] * each.itemsize for each in parts)
            rows = max(1, min(self._most_rows, MOST_BYTES // size))
            self._kept = [each.new_empty((rows, each.shape[-1])) for each in parts]
        return self._count + count <= len(self._kept[0])

    def add(self, ids: list[str], starts: Ints, counts: Ints, output: ModelOutput) -> None:
        """Keeps a copy of what the target has computed of each, `counts[j]` rows from the position `starts[j]` on."""
        stop = self._count + len(output.hidden)
        for kept, each in zip(self._kept, (output.hidden, *output.aux_hidden), strict=True):
            kept[self._count : stop] = each
        if self._runs and self._runs[-1].goes_on(ids, starts, counts):
            self._runs[-1].steps += 1
        else:
            self._runs.append(Run(ids, starts, counts, self._count))
            for id in ids:
                self._from.setdefault(id, len(self._runs) - 1)
        self._count = stop

    def rows(self, id: str, position: int) -> list[int]:
        """Those of a sequence that come right before a position."""
        found: list[int] = []
        end = -1
        for run in self._runs[self._from[id] :] if id in self._from else ():
            if id in run.ids:
                index = run.ids.index(id)
                start, own = int(run.starts[index]), run.rows(index)
                found = [*found, *own] if start == end else own  # its pages are others by now, behind a gap
                end = start + len(own)
        return found if end == position else []

    def take(self, ids: Iterable[str], positions: Ints) -> list[list[int]]:
        """The rows of each that come right before its position; they and all others of it are kept no longer."""
        found = []
        for id, position in zip(ids, positions.tolist(), strict=True):
            found.append(self.rows(id, position))
            self.forget(id)
        return found

    def forget(self, id: str) -> None:
        """Keeps the rows of a sequence no longer."""
        if self._from.pop(id, None) is not None and not self._from:
            self.clear()

    def clear(self) -> None:
        """Forgets all rows."""
        self._from.clear()
        self._runs.clear()
        self._count = 0

    def output(self, rows: torch.Tensor) -> ModelOutput:
        """What was computed in these rows, until more are added."""
        hidden, *aux = (kept.index_select(0, rows) for kept in self._kept)
        return ModelOutput(logits=None, hidden=hidden, aux_hidden=tuple(aux))


def _map(output: ModelOutput, change: Callable[[torch.Tensor], torch.Tensor]) -> ModelOutput:
    return ModelOutput(
        logits=None, hidden=change(output.hidden), aux_hidden=tuple(change(each) for each in output.aux_hidden)
    )


class HeadDrafter:
    """A Drafter, with a head that has its weights and what it shares with the target."""

    def __init__(self, head: DraftHead, context: SpeculatorContext) -> None:
        self._head = head
        self._attention = context.models.attention()
        self._device = context.device
        self._vocab_size = context.vocab_size
        self._ids: torch.Tensor | None = None  # the target's, of a vocabulary of the head's own
        self._behind = Behind(context.step_tokens)
        self._page_size = context.page_size
        self._texts: set[str] = set()  # the sequences that are followed beyond their prompts, now or later
        self._seen: set[str] = set()  # in the last calls
        self._calls = 0
        self._left_out: set[str] = set()  # those that are not, while their prompts are computed
        self._unforeseen = 0  # texts that began while no drafts were foreseen
        self._drafts_at_once = head if isinstance(head, DraftsAtOnce) else None

    def propose(self, step: DraftStep) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in step.sequences]
        firsts = step.inputs.seq_lens - np.diff(step.inputs.query_start)
        alive = step.kept > 0
        if not alive.all():
            self._forget(step, np.flatnonzero(~alive))
        followed = self._choose(step, firsts, alive)
        step.wanted[~followed] = 0
        if followed.any():
            with torch.inference_mode():
                self._follow(step, firsts, followed, drafts)
        return drafts

    @property
    def rests(self) -> bool:
        return not self._texts

    def _choose(self, step: DraftStep, firsts: Ints, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The sequences [B] that are followed, whose rows are those from the positions `firsts` on."""
        ids = [each.id for each in step.sequences]
        computing = alive & (firsts < step.inputs.prompt_lens)
        if not step.foreseen and len(self._texts) > 1 and not step.wanted.any():  # one is enough for trials
            others = [i for i in np.flatnonzero(alive).tolist() if ids[i] in self._texts][1:]
            self._forget(step, np.array(others, dtype=np.int64))
        if computing.any():
            self._begin([ids[i] for i in np.flatnonzero(computing).tolist()], step.foreseen)
            done = firsts + step.kept >= step.inputs.prompt_lens
            self._left_out.difference_update(ids[i] for i in np.flatnonzero(done).tolist())
        elif not self._texts:
            return computing
        self._leave_out_unseen(ids)
        known = np.array([id in self._texts for id in ids], dtype=np.bool_)
        return alive & (known | computing & (step.inputs.prompt_lens >= self._page_size))

    def _begin(self, ids: list[str], foreseen: bool) -> None:
        """Follows texts whose prompts are computed, from their beginning or not at all."""
        for id in ids:
            if id in self._texts or id in self._left_out:
                continue
            self._unforeseen += not foreseen
            if foreseen or self._unforeseen % SAMPLED == 0:
                self._texts.add(id)
            else:
                self._left_out.add(id)

    def _leave_out_unseen(self, ids: list[str]) -> None:
        """Follows those no longer that were in none of many steps: a request that is given up ends in no step."""
        self._seen.update(ids)
        self._calls += 1
        if self._calls % UNSEEN == 0:
            for id in self._texts - self._seen:
                self._behind.forget(id)
            self._texts &= self._seen
            self._left_out &= self._seen
            self._seen.clear()

    def _follow(self, step: DraftStep, firsts: Ints, followed: NDArray[np.bool_], drafts: list[list[int]]) -> None:
        """Follows sequences, or keeps their rows for later, and appends to `drafts` where some are wanted."""
        who = self._whom_to_follow(step, firsts, followed)
        if not len(who):
            return
        kept, wanted = step.kept[who], step.wanted[who]
        ends = firsts[who] + kept
        drafting = np.flatnonzero(wanted)
        inputs, combined = self._followed(step, who, ends - kept, ends)
        lasts = inputs.query_start[1:] - 1
        if len(drafting) and self._at_once(step, who[drafting], inputs, combined, lasts[drafting], drafts):
            return
        hidden = self._forward(inputs, combined)
        if len(drafting):
            hidden = hidden[self._on_device(lasts[drafting])]
            self._go_on(step, who[drafting], ends[drafting], wanted[drafting], hidden, drafts)

    def _whom_to_follow(self, step: DraftStep, firsts: Ints, followed: NDArray[np.bool_]) -> Ints:
        """The sequences that are followed now: prompts and those that want drafts; of others, rows are kept for later.

        `firsts` are the positions of their first rows.
        """
        now = followed & ((step.wanted > 0) | (firsts < step.inputs.prompt_lens))
        later = np.flatnonzero(followed & ~now)
        count = int(step.kept[later].sum())
        if count and not self._behind.fits(count, step.output):
            if step.foreseen:
                self._catch_up(step, np.flatnonzero(followed), firsts)
            else:
                self._forget(step, later)
                count = 0
            self._behind.clear()
        if count and self._behind.fits(count, step.output):
            self._keep(step, later, firsts, count)
        elif count:
            now = followed
        who = np.flatnonzero(now)
        late = sum(len(self._behind.rows(step.sequences[i].id, int(firsts[i]))) for i in who.tolist())
        if late > MERGED * len(who):
            self._catch_up(step, who, firsts)
        return who

    def _forget(self, step: DraftStep, who: Ints) -> None:
        """Follows these no longer."""
        ids = [step.sequences[i].id for i in who.tolist()]
        self._texts.difference_update(ids)
        for id in ids:
            self._behind.forget(id)

    def _keep(self, step: DraftStep, who: Ints, firsts: Ints, count: int) -> None:
        """Keeps the rows of these that stand, `count` in all."""
        output = step.output
        if count < len(output.hidden):
            rows = self._on_device(_ranges(step.inputs.query_start[who], step.kept[who]))
            output = _map(output, lambda each: each.index_select(0, rows))
        self._behind.add([step.sequences[i].id for i in who.tolist()], firsts[who], step.kept[who], output)

    def _catch_up(self, step: DraftStep, who: Ints, firsts: Ints) -> None:
        """Follows what is kept of these, up to the positions `firsts` of their rows in the step."""
        begun = time.perf_counter()
        rows = self._behind.take((step.sequences[i].id for i in who.tolist()), firsts[who])
        counts = np.array([len(each) for each in rows], dtype=np.int64)
        who, counts = who[counts > 0], counts[counts > 0]
        if len(who):
            stops = firsts[who]
            ids = self._following(step, who, stops - counts, stops)
            output = self._behind.output(self._on_device(np.array([row for each in rows for row in each])))
            self._forward(step.passes(who, stops - counts, stops, ids), self._head.combine(output))
            step.caught_up(time.perf_counter() - begun)

    def _following(self, step: DraftStep, who: Ints, starts: Ints, stops: Ints) -> torch.Tensor:
        """The tokens behind each of these positions."""
        found = [step.sequences[i].tokens[a + 1 : b + 1] for i, a, b in zip(who, starts, stops, strict=True)]
        return self._on_device(np.concatenate(found))

    def _at_once(
        self,
        step: DraftStep,
        who: Ints,
        inputs: StepInputs,
        hidden: torch.Tensor,
        lasts: Ints,
        drafts: list[list[int]],
    ) -> bool:
        """Appends to `drafts` where the head computes all of them at once; whether it does."""
        head = self._drafts_at_once
        if head is None or not step.greedy[who].all():
            return False
        wanted = step.wanted[who]
        on = np.flatnonzero(wanted > 1)
        then = None
        if len(on):
            starts = np.array([len(step.sequences[i].tokens) - 1 for i in who[on].tolist()], dtype=np.int64)
            then = self._context(step.passes(who[on], starts, starts + wanted[on] - 1, self._unknown(wanted[on])))
        found = head.draft(self._context(inputs), hidden, lasts, then, on)
        if found is None:
            return False
        tokens, start = found.tolist(), 0
        for i, count in zip(who.tolist(), wanted.tolist(), strict=True):
            drafts[i] = tokens[start : start + count]
            start += count
        return True

    def _unknown(self, wanted: Ints) -> torch.Tensor:
        """Ids of drafts that are not there yet."""
        return torch.zeros(int(wanted.sum()) - len(wanted), dtype=torch.int64, device=self._device)

    def _go_on(
        self, step: DraftStep, who: Ints, ends: Ints, wanted: Ints, hidden: torch.Tensor, drafts: list[list[int]]
    ) -> None:
        """Appends to `drafts`, where `hidden` has the last row of each that `wanted` some, and positions are `ends`."""
        for count in range(1, int(wanted.max()) + 1):
            drawn = step.draw(who, self._logits(hidden))
            for i, token in zip(who.tolist(), drawn.tolist(), strict=True):
                drafts[i].append(token)
            on = np.flatnonzero(wanted > count)
            if not len(on):
                return
            if len(on) < len(who):
                rows = self._on_device(on)
                who, ends, wanted, hidden, drawn = who[on], ends[on], wanted[on], hidden[rows], drawn[rows]
            hidden = self._forward(step.passes(who, ends, ends + 1, drawn), hidden)
            ends = ends + 1

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the target's tokens."""
        logits = self._head.logits(hidden)
        own = logits.shape[-1]
        if own == self._vocab_size:
            return logits
        if self._ids is None:
            self._ids = self._head.token_ids(torch.arange(own, device=logits.device))
        found = logits.new_full((len(logits), self._vocab_size), -torch.inf)
        found[:, self._ids] = logits
        return found

    def _followed(self, step: DraftStep, who: Ints, starts: Ints, stops: Ints) -> tuple[StepInputs, torch.Tensor]:
        """What the target has computed and stands: rows of the sequences `who`, as the head reads it.

        The ids of the inputs are those of the tokens that follow.
        """
        inputs, output = step.inputs, step.output
        late = self._behind.take((step.sequences[i].id for i in who.tolist()), starts)
        rows = None
        if any(late):
            starts, rows, output = self._with_late(step, who, starts, stops, late)
        elif int((stops - starts).sum()) < len(inputs.input_ids):
            rows = _ranges(inputs.query_start[who], stops - starts)
        ids = self._following(step, who, starts, stops)
        if rows is None:  # all of them, and no others: images and adapters are the target's alone
            inputs = replace(
                inputs, input_ids=ids, images=(), mrope_positions=None, bidirectional=(), adapter_rows=None
            )
            return inputs, self._head.combine(output)
        inputs, chosen = step.passes(who, starts, stops, ids), self._on_device(rows)
        if MOST * len(rows) > len(output.hidden):  # one choice among what is combined, and not of each part
            return inputs, self._head.combine(output).index_select(0, chosen)
        return inputs, self._head.combine(_map(output, lambda each: each.index_select(0, chosen)))

    def _with_late(
        self, step: DraftStep, who: Ints, starts: Ints, stops: Ints, late: list[list[int]]
    ) -> tuple[Ints, Ints, ModelOutput]:
        """Where the rows of each begin, with its `late` ones; which rows of what they are.

        The late ones of all come first in the latter, then those of the step.
        """
        counts = np.array([len(each) for each in late], dtype=np.int64)
        before = self._behind.output(self._on_device(np.array([row for each in late for row in each])))
        pairs = zip((before.hidden, *before.aux_hidden), (step.output.hidden, *step.output.aux_hidden), strict=True)
        hidden, *aux = (torch.cat(pair) for pair in pairs)
        own = int(counts.sum()) + step.inputs.query_start[who]
        firsts = np.stack((np.cumsum(counts) - counts, own), axis=1).flatten()
        rows = _ranges(firsts, np.stack((counts, stops - starts), axis=1).flatten())
        return starts - counts, rows, ModelOutput(logits=None, hidden=hidden, aux_hidden=tuple(aux))

    def _forward(self, inputs: StepInputs, hidden: torch.Tensor) -> torch.Tensor:
        self._attention.begin(inputs)
        return self._head.forward(self._context(inputs), hidden)

    def _context(self, inputs: StepInputs) -> StepContext:
        return StepContext(inputs=inputs, attention=self._attention)

    def _on_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _ranges(firsts: Ints, counts: Ints) -> Ints:
    """`counts[j]` numbers from `firsts[j]` on, of each j."""
    ends = np.cumsum(counts)
    found: Ints = np.arange(ends[-1]) + np.repeat(firsts - ends + counts, counts)
    return found
