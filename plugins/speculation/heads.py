"""Drafting with a head on top of the target (methods `eagle` and `mtp`).

At position i the head reads what the target has computed there and the embedding of token i + 1, and predicts token
i + 2 (Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty", 2024). It follows the target
over all its tokens, prompts included, so its keys are there wherever the target's are; for further drafts it goes on
from its own results, a row of each sequence at a time, at positions that the target's next step writes over. Where no
drafts are wanted it follows some steps at once: a pass over a row costs about what one over ten does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.interfaces.runner import ModelOutput
from maxserve.interfaces.speculator import DraftsAtOnce
from maxserve.interfaces.step_context import StepContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from maxserve.interfaces.inputs import StepInputs
    from maxserve.interfaces.speculator import DraftHead, DraftStep, SpeculatorContext

    Ints = NDArray[np.int64]


BEHIND = 16  # steps that a head may be behind the target


class Behind:
    """What the target has computed in steps that the head has not followed yet, a row of each sequence in each."""

    def __init__(self) -> None:
        self._outputs: list[ModelOutput] = []
        self._count = 0  # rows of these
        self._rows: dict[str, tuple[int, list[int]]] = {}  # by sequence: the position of the first, and which they are

    def __len__(self) -> int:
        """Steps."""
        return len(self._outputs)

    def add(self, ids: Iterable[str], positions: Sequence[int], output: ModelOutput) -> None:
        """Row j of `output` is what the target has computed of sequence j at `positions[j]`."""
        for row, (id, position) in enumerate(zip(ids, positions, strict=True), self._count):
            first, rows = self._rows.get(id, (position, []))
            if first + len(rows) != position:  # its pages are others by now
                first, rows = position, []
            rows.append(row)
            self._rows[id] = first, rows
        self._count += len(output.hidden)
        self._outputs.append(_map(output, torch.Tensor.clone))  # the runner may write to its own again

    def take(
        self, ids: Iterable[str], positions: Sequence[int], output: ModelOutput
    ) -> tuple[list[list[int]], int, ModelOutput]:
        """The rows that come before the position of each sequence, in all rows, of which `output`'s are the last.

        Between them is where `output`'s begin. What there is of other sequences is lost.
        """
        found = []
        for id, position in zip(ids, positions, strict=True):
            first, rows = self._rows.get(id, (position, []))
            found.append(rows if first + len(rows) == position else [])
        outputs, count = [*self._outputs, output], self._count
        self._outputs, self._count, self._rows = [], 0, {}
        hidden = torch.cat([each.hidden for each in outputs])
        aux = tuple(torch.cat(layer) for layer in zip(*(each.aux_hidden for each in outputs), strict=True))
        return found, count, ModelOutput(logits=None, hidden=hidden, aux_hidden=aux)


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
        self._behind = Behind()
        self._drafts_at_once = head if isinstance(head, DraftsAtOnce) else None

    @torch.inference_mode()
    def propose(self, step: DraftStep) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in step.sequences]
        who = np.flatnonzero(step.kept)
        if not len(who):
            return drafts
        kept = step.kept[who]
        ends = (step.inputs.seq_lens - np.diff(step.inputs.query_start))[who] + kept
        wanted = step.wanted[who]
        drafting = np.flatnonzero(wanted)
        if not len(drafting) and self._may_wait(step):
            self._behind.add(
                (sequence.id for sequence in step.sequences), (step.inputs.seq_lens - 1).tolist(), step.output
            )
            return drafts
        inputs, combined = self._followed(step, who, ends - kept, ends)
        lasts = inputs.query_start[1:] - 1
        if len(drafting) and self._at_once(step, who[drafting], inputs, combined, lasts[drafting], drafts):
            return drafts
        hidden = self._forward(inputs, combined)
        if not len(drafting):
            return drafts
        hidden = hidden[self._on_device(lasts[drafting])]
        self._go_on(step, who[drafting], ends[drafting], wanted[drafting], hidden, drafts)
        return drafts

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

    def _may_wait(self, step: DraftStep) -> bool:
        """Whether the head may follow this step later: each sequence has a token of its text in it."""
        return len(step.inputs.input_ids) == len(step.sequences) and len(self._behind) < BEHIND

    def _followed(self, step: DraftStep, who: Ints, starts: Ints, stops: Ints) -> tuple[StepInputs, torch.Tensor]:
        """What the target has computed and stands: rows of the sequences `who`, as the head reads it.

        The ids of the inputs are those of the tokens that follow.
        """
        inputs, output = step.inputs, step.output
        if len(self._behind):
            starts, rows, output = self._with_those_behind(step, who, starts, stops)
        elif int((stops - starts).sum()) < len(inputs.input_ids):
            rows = _ranges(inputs.query_start[who], stops - starts)
        else:
            rows = None
        following = [step.sequences[i].tokens[a + 1 : b + 1] for i, a, b in zip(who, starts, stops, strict=True)]
        ids = self._on_device(np.concatenate(following))
        if rows is None:  # all of them, and no others: images and adapters are the target's alone
            inputs = replace(
                inputs, input_ids=ids, images=(), mrope_positions=None, bidirectional=(), adapter_rows=None
            )
        else:
            chosen = self._on_device(rows)
            inputs, output = step.passes(who, starts, stops, ids), _map(output, lambda each: each[chosen])
        return inputs, self._head.combine(output)

    def _with_those_behind(
        self, step: DraftStep, who: Ints, starts: Ints, stops: Ints
    ) -> tuple[Ints, Ints, ModelOutput]:
        """Where the rows of each begin, with those of earlier steps; which they are; the outputs that they are of."""
        ids = (step.sequences[i].id for i in who.tolist())
        before, first, output = self._behind.take(ids, starts.tolist(), step.output)
        own = zip(before, step.inputs.query_start[who].tolist(), (stops - starts).tolist(), strict=True)
        rows = [row for earlier, at, count in own for row in (*earlier, *range(first + at, first + at + count))]
        counts = np.array([len(earlier) for earlier in before], dtype=np.int64)
        return starts - counts, np.array(rows, dtype=np.int64), output

    def _forward(self, inputs: StepInputs, hidden: torch.Tensor) -> torch.Tensor:
        self._attention.begin(inputs)
        return self._head.forward(self._context(inputs), hidden)

    def _context(self, inputs: StepInputs) -> StepContext:
        return StepContext(inputs=inputs, attention=self._attention)

    def _on_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _ranges(firsts: Ints, counts: Ints) -> Ints:
    """`counts[j]` numbers from `firsts[j]` on, of each j."""
    return np.concatenate([np.arange(first, first + count) for first, count in zip(firsts, counts, strict=True)])
