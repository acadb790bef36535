"""Runs the model on a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from maxserve.core.engine.logprobs import PromptScores
    from maxserve.core.interfaces.architecture import Model
    from maxserve.core.interfaces.batch import Batch


class Runner:
    """Holds the model and gives the logits of the rows a batch wants.

    Checks the shape of what the model returns: logits of another width would be drawn from all the same.
    """

    def __init__(self, model: Model, vocab_size: int) -> None:
        self._model = model
        self._vocab_size = vocab_size

    @torch.inference_mode()
    def run(self, batch: Batch, prompts: PromptScores | None = None) -> torch.Tensor | None:
        """Logits [R, vocab] of `batch.logit_rows`, or None when it wants none; stores all keys and values.

        `prompts` looks at the hidden states as well.

        Attention back ends hear nothing of a batch of nobody (`--execute-empty-batches`); the model runs all the same.
        """
        if len(batch.seq_lens):
            batch.attention.begin(batch)
        hidden = self._model.forward(batch)
        tokens = len(batch.input_ids)
        if hidden.shape[:1] != (tokens,):
            raise ValueError(f"forward returned {list(hidden.shape)} for {tokens} tokens; [{tokens}, dim] is due")
        if prompts is not None:
            prompts.look(hidden, self._model.logits)
        if not len(batch.logit_rows):
            return None
        logits = self._model.logits(hidden[batch.logit_rows])
        due = (len(batch.logit_rows), self._vocab_size)
        if logits.shape != due:
            raise ValueError(f"logits returned {list(logits.shape)}; [rows, vocab_size] = {list(due)} is due")
        return logits
