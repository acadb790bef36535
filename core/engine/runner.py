"""Runs the model on a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from maxserve.core.engine.logprobs import PromptScores
    from maxserve.core.interfaces import Model
    from maxserve.core.nouns import Batch


class Runner:
    """Holds the model and gives the logits of the rows a batch wants."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @torch.inference_mode()
    def run(self, batch: Batch, prompts: PromptScores | None = None) -> torch.Tensor | None:
        """Logits [R, vocab] of `batch.logit_rows`, or None when it wants none; stores all keys and values.

        `prompts` looks at the hidden states as well.

        Attention back ends hear nothing of a batch of nobody (`--execute-empty-batches`); the model runs all the same.
        """
        if len(batch.seq_lens):
            batch.attention.begin(batch)
        hidden = self._model.forward(batch)
        if prompts is not None:
            prompts.look(hidden, self._model.logits)
        if not len(batch.logit_rows):
            return None
        return self._model.logits(hidden[batch.logit_rows])
