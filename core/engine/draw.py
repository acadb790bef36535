"""From logits to tokens: the transforms of the samplers by stage, then the draw.

The draw belongs to the core. It needs one uniform number per row, taken from the generator of the row's own request,
so that a seed gives the same text whatever else runs in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from maxserve.core.nouns import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from maxserve.core.engine.sequence import Sequence
    from maxserve.core.interfaces import LogitTransform

INVALID = -1  # stands for the token of a row whose logits hold nothing to choose from


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One transform in the pipeline; optional methods are looked up here, once."""

    name: str
    transform: LogitTransform[Any]
    keeps_argmax: bool
    greedy: Callable[[Rows], SequenceOf[bool]] | None
    observe: Callable[[Rows, SequenceOf[int]], None] | None

    @classmethod
    def of(cls, name: str, transform: Any, *, keeps_argmax: bool) -> Stage:
        return cls(
            name=name,
            transform=transform,
            keeps_argmax=keeps_argmax,
            greedy=transform.greedy if hasattr(transform, "greedy") else None,
            observe=transform.observe if hasattr(transform, "observe") else None,
        )


class Pipeline:
    """Draws the next token of each sequence. `stages` come sorted."""

    def __init__(self, stages: SequenceOf[Stage], device: torch.device) -> None:
        self._stages = tuple(stages)
        self._device = device

    def draw(self, logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> list[int]:
        """One token per row of logits [rows, vocab]; INVALID where the logits allow none."""
        rows = Rows(
            [s.params for s in sequences],
            _Histories(sequences),
            [s.prompt_length for s in sequences],
            self._device,
        )
        greedy = self._greedy(rows)
        logits = self._transform(logits.float(), rows, skip_keepers=bool(greedy.all()))
        tokens = self._choose(logits, greedy, sequences)
        for stage in self._stages:
            if stage.observe is not None:
                stage.observe(rows, tokens)
        return tokens

    def _greedy(self, rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        greedy = np.zeros(len(rows), dtype=np.bool_)
        for stage in self._stages:
            if stage.greedy is not None:
                greedy |= np.asarray(stage.greedy(rows), dtype=np.bool_)
        return greedy

    def _transform(self, logits: torch.Tensor, rows: Rows, *, skip_keepers: bool) -> torch.Tensor:
        for stage in self._stages:
            if skip_keepers and stage.keeps_argmax:
                continue
            state = stage.transform.prepare(rows)
            if state is not None:
                logits = stage.transform.apply(logits, state)
        return logits

    def _choose(
        self,
        logits: torch.Tensor,
        greedy: np.ndarray[tuple[int], np.dtype[np.bool_]],
        sequences: SequenceOf[Sequence],
    ) -> list[int]:
        best, tokens = logits.max(dim=-1)
        if not greedy.all():
            drawing = torch.from_numpy(np.flatnonzero(~greedy)).to(self._device)
            uniforms = np.array([s.uniform() for s, g in zip(sequences, greedy.tolist(), strict=True) if not g])
            tokens[drawing] = inverse_cdf(logits[drawing], torch.from_numpy(uniforms).to(self._device))
        return torch.where(best.isfinite(), tokens, INVALID).tolist()


class _Histories(SequenceOf["NDArray[np.int64]"]):
    """The tokens of each sequence, looked up when a transform asks: most never do."""

    def __init__(self, sequences: SequenceOf[Sequence]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, index: slice) -> SequenceOf[NDArray[np.int64]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | SequenceOf[NDArray[np.int64]]:
        if isinstance(index, slice):
            return _Histories(self._sequences[index])
        return self._sequences[index].tokens


def inverse_cdf(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulated probability first exceeds each row's uniform number in [0, 1).

    float64, because the rounding of a float32 sum over 150 000 tokens would be visible in the distribution.
    """
    cumulated = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    aims = uniforms[:, None] * cumulated[:, -1:]
    found = torch.searchsorted(cumulated, aims, right=True)[:, 0]
    return found.clamp_(max=logits.shape[-1] - 1)
