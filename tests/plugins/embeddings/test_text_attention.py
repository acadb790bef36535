"""Attention within the texts of a batch, against the formula written out for one text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maxserve.architectures.layers.text_context import TextContext
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.request import EncodeRequest
from maxserve.plugins.embeddings.engine import text_inputs
from maxserve.plugins.embeddings.queue import EncodeWork
from maxserve.plugins.embeddings.text_attention import WithinTexts

LENGTHS = (1, 4, 4, 9)
HEADS, DIM = 4, 8


def textbook(layer: CacheLayer | None, q: Tensor, k: Tensor, v: Tensor, sinks: Any = None, bias: Any = None) -> Tensor:
    """[length, heads, dim] of one text, in float64."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(1, 2) * (layer.score_scale if layer else DIM**-0.5)
    if layer and layer.softcap:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    if bias is not None:
        scores = scores + bias[:, : q.shape[1], : q.shape[1]].double()
    for i in range(q.shape[1]):
        for j in range(q.shape[1]):
            far = layer and layer.window and i - j >= layer.window
            apart = layer and layer.chunk and i // layer.chunk != j // layer.chunk
            if layer and (j > i or far or apart):
                scores[:, i, j] = -torch.inf
    if sinks is None:
        return (scores.softmax(-1) @ v).transpose(0, 1)
    beside = sinks.double()[:, None, None].expand(-1, q.shape[1], 1)
    return (torch.cat((scores, beside), -1).softmax(-1)[..., :-1] @ v).transpose(0, 1)


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize(
    ("layer", "sinks", "bias"),
    [
        (None, False, False),
        (None, False, True),
        ({}, False, False),
        ({}, False, True),
        ({"window": 3}, False, False),
        ({"chunk": 2}, False, False),
        ({"softcap": 2.0, "scale": 0.7}, False, False),
        ({"sinks": True}, True, False),
        ({"window": 2, "softcap": 1.5}, True, False),
    ],
)
def test_it_is_the_formula(layer: dict[str, Any] | None, sinks: bool, bias: bool, kv_heads: int) -> None:
    kept = None if layer is None else CacheLayer(kv_heads=kv_heads, head_dim=DIM, **layer)
    attention = WithinTexts(() if kept is None else (kept,))
    work = EncodeWork(EncodeRequest(id="a", texts=tuple((1,) * length for length in LENGTHS)))
    taken = sorted((work.take() for _ in LENGTHS), key=lambda each: len(each.tokens))
    inputs = text_inputs(taken, torch.device("cpu"))
    attention.begin(inputs)
    torch.manual_seed(0)
    total, longest = sum(LENGTHS), max(LENGTHS)
    q, k, v = torch.randn(total, HEADS, DIM), torch.randn(total, kv_heads, DIM), torch.randn(total, kv_heads, DIM)
    given = torch.randn(HEADS) if sinks else None
    added = torch.randn(HEADS, longest, longest) if bias else None
    ours = TextContext(inputs=inputs, attention=attention).attend(0, q, k, v, given, bias=added)
    start = 0
    for length in sorted(LENGTHS):
        rows = slice(start, start + length)
        expected = textbook(kept, q[rows], k[rows], v[rows], given, added)
        torch.testing.assert_close(ours[rows].double(), expected, atol=1e-5, rtol=1e-5)
        start += length


def test_layers_whose_tokens_choose_are_refused() -> None:
    with pytest.raises(ModelError, match="choose what they see"):
        WithinTexts((CacheLayer(kv_heads=1, head_dim=8, index_dim=4, index_top=2),))
