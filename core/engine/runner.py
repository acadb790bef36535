"""Runs the model on a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from maxserve.core.interfaces import Model
    from maxserve.core.nouns import Batch


class Runner:
    """Holds the model and gives the logits of the rows a batch wants."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @torch.inference_mode()
    def run(self, batch: Batch) -> torch.Tensor | None:
        """Logits [R, vocab] of `batch.logit_rows`, or None when it wants none; stores all keys and values.

        Attention back ends hear nothing of a batch of nobody (`--execute-empty-batches`); the model runs all the same.
        """
        if len(batch.seq_lens):
            batch.attention.begin(batch)
        hidden = self._model.forward(batch)
        if not len(batch.logit_rows):
            return None
        return self._model.logits(hidden[batch.logit_rows])
