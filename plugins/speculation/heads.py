"""Drafting with a head on top of the target (methods `eagle` and `mtp`).

At position i the head reads what the target has computed there and the embedding of token i + 1, and predicts token
i + 2 (Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty", 2024). It follows the target
over all its tokens, prompts included, so its keys are there wherever the target's are; for further drafts it goes on
from its own results, a row of each sequence at a time, at positions that the target's next step writes over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.interfaces.runner import ModelOutput
from maxserve.interfaces.step_context import StepContext

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.inputs import StepInputs
    from maxserve.interfaces.speculator import DraftHead, DraftStep, SpeculatorContext

    Ints = NDArray[np.int64]


class HeadDrafter:
    """A Drafter, with a head that has its weights and what it shares with the target."""

    def __init__(self, head: DraftHead, context: SpeculatorContext) -> None:
        self._head = head
        self._attention = context.models.attention()
        self._device = context.device
        self._vocab_size = context.vocab_size
        self._ids: torch.Tensor | None = None  # the target's, of a vocabulary of the head's own

    @torch.inference_mode()
    def propose(self, step: DraftStep) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in step.sequences]
        who = np.flatnonzero(step.kept)
        if not len(who):
            return drafts
        kept = step.kept[who]
        ends = (step.inputs.seq_lens - np.diff(step.inputs.query_start))[who] + kept
        hidden = self._follow(step, who, ends - kept, ends)
        wanted = step.wanted[who]
        drafting = np.flatnonzero(wanted)
        if not len(drafting):
            return drafts
        hidden = hidden[self._on_device(np.cumsum(kept)[drafting] - 1)]
        self._go_on(step, who[drafting], ends[drafting], wanted[drafting], hidden, drafts)
        return drafts

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

    def _follow(self, step: DraftStep, who: Ints, starts: Ints, stops: Ints) -> torch.Tensor:
        """Computes what the target has computed and stands: rows of the sequences `who`, one after another."""
        inputs, output = step.inputs, step.output
        following = [step.sequences[i].tokens[a + 1 : b + 1] for i, a, b in zip(who, starts, stops, strict=True)]
        ids = self._on_device(np.concatenate(following))
        if len(ids) == len(inputs.input_ids):  # all of them: images and adapters are the target's alone
            inputs = replace(
                inputs, input_ids=ids, images=(), mrope_positions=None, bidirectional=(), adapter_slots=None
            )
        else:
            firsts = inputs.query_start[who]
            rows = self._on_device(
                np.concatenate([np.arange(a, a + n) for a, n in zip(firsts, stops - starts, strict=True)])
            )
            inputs = step.passes(who, starts, stops, ids)
            output = ModelOutput(
                logits=None, hidden=output.hidden[rows], aux_hidden=tuple(each[rows] for each in output.aux_hidden)
            )
        return self._forward(inputs, self._head.combine(output))

    def _forward(self, inputs: StepInputs, hidden: torch.Tensor) -> torch.Tensor:
        self._attention.begin(inputs)
        return self._head.forward(StepContext(inputs=inputs, attention=self._attention), hidden)

    def _on_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
