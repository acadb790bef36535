"""A model without its head.

Classes differ in what they do after the last layer (scales, caps), and have no method for it alone. So the class's own
forward runs twice: once for all tokens, with nothing for its head to do, and once for the rows whose logits are
wanted, with its trunk giving back what it gets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maxserve.plugins.transformers.tracing import hidden_of


class Trunk:
    """Stands for the forward of a model's trunk, in the model it is put into."""

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        trunk: Any = model.get_submodule(name)
        self._run = trunk.forward
        self._parted = False
        self._told: Tensor | None = None
        self._gave: Tensor | None = None
        self._kind: type[Any] = tuple
        trunk.forward = self  # of this one module; the class stays as it is

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._told is not None:
            return self._output(self._told)
        output = self._run(*args, **kwargs)
        if not self._parted:
            return output
        self._kind, self._gave = type(output), hidden_of(output)
        return self._output(self._gave[:, :0])

    def _output(self, hidden: Tensor) -> Any:
        return (hidden,) if self._kind is tuple else self._kind(last_hidden_state=hidden)

    def hidden(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """What the trunk makes of tokens [T]; [T, dim]."""
        self._parted = True
        try:
            self._model(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
        finally:
            self._parted = False
        assert self._gave is not None, "the model's forward did not come to its trunk"
        hidden, self._gave = self._gave[0], None
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """What the head makes of rows of hidden states; [rows, vocab_size]."""
        nothing = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        self._told = hidden[None]
        try:
            out: Tensor = self._model(input_ids=nothing, position_ids=nothing, use_cache=False).logits[0]
        finally:
            self._told = None
        return out
