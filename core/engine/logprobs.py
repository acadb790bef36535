"""Logprobs of tokens: log-softmax of the model's raw logits, in float32, a few rows at a time.

Raw: before any sampler and mask, so that the numbers are the model's and not the request's.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.core.interfaces.request import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.engine.step import Step

BLOCK = 2**24  # logits looked at once, so that a long prompt needs no [prompt, vocabulary]


class Scores:
    """The logprobs of some rows, on the device until they are read: chosen tokens, their ranks, the likeliest."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: torch.Tensor) -> None:
        self._parts = parts

    @classmethod
    def of(cls, logits: torch.Tensor, tokens: torch.Tensor, most: int) -> Scores:
        """For logits [rows, vocab] and one token per row, with the `most` likeliest."""
        logprobs = logits.float().log_softmax(dim=-1)
        chosen = logprobs.gather(-1, tokens[:, None])
        ranks = (logprobs > chosen).sum(dim=-1) + 1
        top = logprobs.topk(min(most, logprobs.shape[-1]), dim=-1)
        return cls(tokens, chosen[:, 0], ranks, top.indices, top.values)

    @property
    def rows(self) -> int:
        return len(self._parts[0])

    def sent(self) -> Scores:
        """Itself on the way to the host; to be read when the device is done with that."""
        return Scores(*(part.to("cpu", non_blocking=True) for part in self._parts))

    def read(self, counts: SequenceOf[int]) -> list[TokenLogprob]:
        """One per row, with as many of the likeliest as the row wants."""
        columns = [part.tolist() for part in self._parts]
        return [
            TokenLogprob(token=token, logprob=chosen, rank=rank, ids=tuple(ids[:count]), logprobs=tuple(best[:count]))
            for count, token, chosen, rank, ids, best in zip(counts, *columns, strict=True)
        ]


class PromptScores:
    """The logprobs of prompt tokens that one step computes, for the requests that ask for them.

    `rows` are indices of the step's tokens, `targets` the prompt tokens that follow them.
    """

    def __init__(self, step: Step, wanting: SequenceOf[tuple[int, Sequence]]) -> None:
        offsets = np.cumsum(step.stops - step.starts) - (step.stops - step.starts)
        rows, targets, slots = [], [], []
        self._owners: list[tuple[Sequence, int]] = []
        self._counts: list[int] = []
        for index, sequence in wanting:
            start, stop = int(step.starts[index]), int(step.stops[index])
            first, end = max(sequence.scored, start + 1), min(stop + 1, sequence.prompt_length)
            if first >= end:
                continue
            sequence.scored = end
            rows.append(np.arange(first - 1, end - 1) - start + offsets[index])
            targets.append(sequence.tokens[first:end])
            slots.append(np.full(end - first, 0 if sequence.adapter is None else sequence.adapter.slot))
            self._owners.append((sequence, end - first))
            self._counts += [sequence.request.params.prompt_logprobs or 0] * (end - first)
        self.rows = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
        self._targets = np.concatenate(targets) if targets else np.empty(0, dtype=np.int64)
        self._slots = np.concatenate(slots) if slots else np.empty(0, dtype=np.int64)  # of adapters
        self._scores: list[Scores] = []
        self._ready: torch.cuda.Event | None = None

    @classmethod
    def of(cls, step: Step) -> PromptScores | None:
        """None when no request of the step wants any: prompts are not computed by a step that only decodes."""
        if step.decodes:
            return None
        made = cls(step, [(i, s) for i, s in enumerate(step.sequences) if s.wants_scores])
        return made if made._counts else None

    @torch.inference_mode()
    def look(self, hidden: torch.Tensor, logits: Callable[..., torch.Tensor]) -> None:
        """Reads the step's hidden states [T, dim] by the model's `logits`, block by block.

        Where rows have adapters, their slots go with them.
        """
        device, start, size, most = hidden.device, 0, 1, max(self._counts)
        while start < len(self.rows):  # the first block has one row, which shows how wide the logits are
            stop = start + size
            slots = self._slots[start:stop]
            block = hidden[torch.from_numpy(self.rows[start:stop]).to(device)]
            found = logits(block, slots) if slots.any() else logits(block)
            targets = torch.from_numpy(self._targets[start:stop]).to(device)
            self._scores.append(Scores.of(found, targets, most).sent())
            start, size = stop, max(1, BLOCK // found.shape[-1])
        if device.type == "cuda":
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()

    def settle(self) -> None:
        """Gives each request its own, when the device is done with them."""
        if self._ready is not None:
            self._ready.synchronize()
        counts, found = iter(self._counts), []
        for scores in self._scores:
            found += scores.read([next(counts) for _ in range(scores.rows)])
        at = 0
        for sequence, count in self._owners:
            sequence.scores += found[at : at + count]
            at += count
