"""Runs the model on the inputs of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maxserve.core.interfaces.inputs import StepContext

if TYPE_CHECKING:
    from maxserve.core.engine.logprobs import PromptScores
    from maxserve.core.interfaces.architecture import Model
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.inputs import StepInputs


class Runner:
    """Holds the model and gives the logits of the rows a step wants.

    Checks the shape of what the model returns: logits of another width would be drawn from all the same.
    """

    def __init__(self, model: Model, attention: Attention, vocab_size: int) -> None:
        self._model = model
        self._attention = attention
        self._vocab_size = vocab_size

    @torch.inference_mode()
    def run(self, inputs: StepInputs, prompts: PromptScores | None = None) -> torch.Tensor | None:
        """Logits [R, vocab] of `inputs.logit_rows`, or None when it wants none; stores all keys and values.

        `prompts` looks at the hidden states as well.

        Attention back ends hear nothing of an empty batch (`--execute-empty-batches`); the model runs all the same.
        """
        if len(inputs.seq_lens):
            self._attention.begin(inputs)
        hidden = self._model.forward(StepContext(inputs=inputs, attention=self._attention))
        tokens = len(inputs.input_ids)
        if hidden.shape[:1] != (tokens,):
            raise ValueError(f"forward returned {list(hidden.shape)} for {tokens} tokens; [{tokens}, dim] is due")
        if prompts is not None:
            prompts.look(hidden, self._model.logits)
        if not len(inputs.logit_rows):
            return None
        logits = self._model.logits(hidden[inputs.logit_rows])
        due = (len(inputs.logit_rows), self._vocab_size)
        if logits.shape != due:
            raise ValueError(f"logits returned {list(logits.shape)}; [rows, vocab_size] = {list(due)} is due")
        return logits
