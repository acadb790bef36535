"""A class of transformers as a model that is served."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from maxserve.architectures.layers import Linear
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import Embedding
from maxserve.plugins.transformers.rehearsal import rehearse
from maxserve.plugins.transformers.rope import LongRope
from maxserve.plugins.transformers.seam import NAME, Seam, attend_with
from maxserve.plugins.transformers.spec import Spec
from maxserve.plugins.transformers.swapping import swap
from maxserve.plugins.transformers.trunk import Trunk


class Model(nn.Module):
    """Runs the whole batch as one row of tokens; texts meet only in attention, which is the cache's.

    `lm` is the model of transformers. It is made without memory, and taken anew when it comes with its weights.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.take(spec.source.make())

    def take(self, lm: Any) -> None:
        """From now on `lm` is the model."""
        if self.spec.swaps:
            swap(lm)
        lm.requires_grad_(False)
        for name, module in lm.named_modules():
            if isinstance(module, Linear | Embedding):
                module.adaptable = name in self.spec.by_row
        self.lm = lm
        self.seam = Seam(lm, self.spec.calls)
        self.rope = LongRope(lm)
        self.trunk = Trunk(lm, self.spec.trunk)

    @property
    def heads(self) -> frozenset[str]:
        """The projections behind the trunk, which are called with the rows whose logits are wanted."""
        names = [name for name, module in self.lm.named_modules() if isinstance(module, Linear)]
        return frozenset(f"lm.{name}" for name in names if not name.startswith(f"{self.spec.trunk}."))

    def prepare(self) -> None:
        """Proves, with its weights, that it computes here what it computes alone; ModelError if not."""
        rehearse(self)

    def forward(self, step: StepContext) -> Tensor:
        """What the class gives to its head, [T, dim]."""
        self.rope.begin(step.inputs)
        with self.seam.step(step):
            return self.trunk.hidden(step.inputs.input_ids, step.inputs.positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] to [rows, vocab_size]."""
        return self.trunk.logits(hidden)

    def alone(self, tokens: Tensor) -> Tensor:
        """The logits [T, vocab_size] of one text by nothing but the class, attention as it is written there."""
        self.rope.begin(None)
        attend_with(self.lm, "eager")
        try:
            out: Tensor = self.lm(input_ids=tokens[None], use_cache=False).logits[0]
        finally:
            attend_with(self.lm, NAME)
        return out
