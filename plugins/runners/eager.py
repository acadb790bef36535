"""The forward pass as the model is written, operation by operation."""

from __future__ import annotations

import torch

from maxserve.interfaces.inputs import StepInputs
from maxserve.interfaces.runner import ModelOutput, RunnerContext
from maxserve.interfaces.step_context import StepContext


class EagerRunner:
    """A Runner. Checks the shapes that the model returns: logits of another width would be drawn from all the same."""

    def __init__(self, context: RunnerContext) -> None:
        self._model = context.model
        self._attention = context.attention
        self._vocab_size = context.vocab_size
        self._aux_layers = context.aux_layers

    @torch.inference_mode()
    def run(self, inputs: StepInputs) -> ModelOutput:
        """Computes the step; the attention hears nothing of an empty one, but the model runs all the same."""
        if len(inputs.seq_lens):
            self._attention.begin(inputs)
        step = StepContext(inputs=inputs, attention=self._attention, aux_layers=self._aux_layers)
        hidden = self._model.forward(step)
        tokens = len(inputs.input_ids)
        if hidden.shape[:1] != (tokens,):
            raise ValueError(f"forward returned {list(hidden.shape)} for {tokens} tokens; [{tokens}, dim] is due")
        if len(step.aux_hidden) != len(self._aux_layers):
            raise ValueError(f"the model kept outputs of {len(step.aux_hidden)} layers; {self._aux_layers} are due")
        wanted = len(inputs.logit_rows)
        rows = hidden if wanted == tokens else hidden[inputs.logit_rows]
        logits = self._logits(rows) if wanted else None
        return ModelOutput(logits=logits, hidden=hidden, aux_hidden=tuple(step.aux_hidden))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._logits(hidden)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._model.logits(hidden)
        due = (len(hidden), self._vocab_size)
        if logits.shape != due:
            raise ValueError(f"logits returned {list(logits.shape)}; [rows, vocab_size] = {list(due)} is due")
        return logits
