"""The rehearsal of a model, with its weights, before it serves.

Whatever a class does that was not thought of here (positions it counts itself, states it keeps, tokens it mixes outside
of attention) changes the numbers of this, and is refused.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from maxserve.architectures.layers.plain_attention import plain_attention
from maxserve.interfaces.attention import Index
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import MaxserveError, ModelError
from maxserve.interfaces.inputs import StepInputs
from maxserve.interfaces.step_context import StepContext
from maxserve.registry import cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maxserve.plugins.transformers.spec import Spec


LENGTHS = (9, 5)  # tokens of the two texts
CUT = 4  # where the first is cut in two
PIECES = (0, CUT, LENGTHS[0], sum(LENGTHS))
TOLERANCE = {torch.float32: 1e-3}  # of the norm of a token's logits
ROUGH = 0.1  # in 16 bits


class Rehearsed(Protocol):
    """A model that can also be run alone, by nothing but its class."""

    spec: Spec
    lm: Any

    def alone(self, tokens: Tensor) -> Tensor: ...
    def forward(self, step: StepContext) -> Tensor: ...
    def logits(self, hidden: Tensor) -> Tensor: ...


def rehearse(model: Rehearsed) -> None:
    """Two texts, the first cut in two pieces, against the same texts one by one."""
    name = model.spec.source.cls.__name__
    device = next(model.lm.parameters()).device
    texts = [_tokens(seed, length, model.spec.vocab_size, device) for seed, length in enumerate(LENGTHS)]
    try:
        with torch.inference_mode():
            expected = torch.cat([model.alone(text) for text in texts]).float()
            found = _together(model, texts).float()
    except MaxserveError:
        raise
    except Exception as error:  # the class is not ours
        raise ModelError(f"{name} fails in its first step: {cause(error)}") from error
    worst = max(_error(found[a:b], expected[a:b]) for a, b in pairwise(PIECES))
    allowed = TOLERANCE.get(model.lm.dtype, ROUGH)
    if not worst <= allowed:
        raise ModelError(
            f"{name} computes other logits when texts run side by side and in pieces than when one runs alone (by "
            f"{worst:.2g} of their size, {allowed:g} is allowed): it looks at other tokens than through attention, or "
            "at other positions than it is given, and cannot be served"
        )


def _error(found: Tensor, expected: Tensor) -> float:
    """By how much the logits of a piece differ, as a share of their size.

    That of the token in the middle: in 16 bits, a few tokens go to other experts for nothing but rounding.
    """
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(errors.median() if errors.isfinite().all() else errors.new_tensor(float("inf")))


def _tokens(seed: int, length: int, vocab_size: int, device: torch.device) -> Tensor:
    chosen = torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(seed))
    return chosen.to(device)


def _together(model: Rehearsed, texts: Sequence[Tensor]) -> Tensor:
    """Logits of all tokens: of the first text's beginning, and of its rest beside the second text."""
    attention = PlainCache(model.spec.cache_layers)
    first, second = texts
    steps = [{0: (0, first[:CUT])}, {0: (CUT, first[CUT:]), 1: (0, second)}]
    hidden = [model.forward(_step(step, texts, attention)) for step in steps]
    return model.logits(torch.cat(hidden))


def _step(step: dict[int, tuple[int, Tensor]], texts: Sequence[Tensor], attention: PlainCache) -> StepContext:
    """A step of, by text, where its new tokens begin and what they are."""
    starts, tokens = zip(*step.values(), strict=True)
    counts = [len(each) for each in tokens]
    spans = [torch.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    input_ids = torch.cat(tokens)
    inputs = StepInputs(
        input_ids=input_ids,
        positions=torch.cat(spans).to(input_ids.device),
        slot_mapping=torch.zeros_like(input_ids),
        query_start=np.cumsum([0, *counts]),
        seq_lens=np.array([start + count for start, count in zip(starts, counts, strict=True)]),
        prompt_lens=np.array([len(texts[text]) for text in step]),
        block_tables=np.array([[text] for text in step], dtype=np.int32),
        logit_rows=torch.arange(len(input_ids), device=input_ids.device),
    )
    return StepContext(inputs=inputs, attention=attention)


class PlainCache:
    """An Attention that keeps what each text has stored, layer by layer."""

    def __init__(self, layers: Sequence[CacheLayer]) -> None:
        self._layers = layers
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def begin(self, inputs: StepInputs) -> None:
        """Nothing to plan."""

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: StepInputs,
        sinks: Tensor | None = None,
        index: Index | None = None,
    ) -> Tensor:
        seen = []
        for text, (start, stop) in zip(
            inputs.block_tables[:, 0].tolist(), pairwise(inputs.query_start.tolist()), strict=True
        ):
            keys, values = k[start:stop], v[start:stop]
            if (layer, text) in self._kept:
                before = self._kept[layer, text]
                keys, values = torch.cat((before[0], keys)), torch.cat((before[1], values))
            self._kept[layer, text] = keys, values
            seen.append(plain_attention(q[start:stop], keys, values, self._layers[layer], sinks).to(q.dtype))
        return torch.cat(seen)
