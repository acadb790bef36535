"""The brick of experts against the plain loop in float64, however it multiplies; and how experts are chosen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.architectures.layers.expert_linear import ExpertLinear, grouped, one_by_one
from maxserve.architectures.layers.moe import Experts, gated
from maxserve.architectures.layers.routing import (
    Choice,
    ExpertGroups,
    corrected_sigmoid,
    group_limited_softmax,
    softmax_top_k,
    top_k_sigmoid,
    top_k_softmax,
)

EXPERTS, DIM, INNER = 6, 16, 24
silu = gated(F.silu)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def built(*, bias: bool = False, weighs_input: bool = False) -> Experts:
    experts = Experts(EXPERTS, DIM, INNER, silu, bias=bias, weighs_input=weighs_input)
    for module in (experts.gate_up_proj, experts.down_proj):
        assert module.weight is not None
        module.weight.data = random(*module.weight.shape) * 0.2
        if module.bias is not None:
            module.bias.data = random(*module.bias.shape)
    return experts


def loop(experts: Experts, x: Tensor, choice: Choice) -> Tensor:
    """Token by token, choice by choice."""
    gate_up, down = experts.gate_up_proj, experts.down_proj

    def product(module: ExpertLinear, row: Tensor, expert: int) -> Tensor:
        assert module.weight is not None
        made = module.weight[expert].double() @ row
        return made if module.bias is None else made + module.bias[expert].double()

    out = torch.zeros_like(x, dtype=torch.float64)
    for token, (weights, chosen) in enumerate(zip(choice.weights.double(), choice.experts.tolist(), strict=True)):
        for factor, expert in zip(weights, chosen, strict=True):
            row = x[token].double() * (factor if experts.weighs_input else 1)
            made = product(down, silu(product(gate_up, row, expert)), expert)
            out[token] += made * (1 if experts.weighs_input else factor)
    return out


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 50])
@pytest.mark.parametrize("top_k", [1, 3, EXPERTS])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighs_input", [False, True])
def test_equals_the_loop(tokens: int, top_k: int, bias: bool, weighs_input: bool) -> None:
    experts, x = built(bias=bias, weighs_input=weighs_input), random(tokens, DIM)
    choice = softmax_top_k(random(tokens, EXPERTS), top_k, normalised=False)
    result = experts(x, choice)
    assert result.dtype == x.dtype
    torch.testing.assert_close(result.double(), loop(experts, x, choice), atol=1e-5, rtol=0)


def test_all_tokens_with_one_expert() -> None:
    experts, x = built(bias=True), random(9, DIM)
    choice = Choice(torch.ones(9, 1), torch.full((9, 1), 4))
    torch.testing.assert_close(experts(x, choice).double(), loop(experts, x, choice), atol=1e-5, rtol=0)


def test_a_token_does_not_depend_on_the_others() -> None:
    experts, x = built(), random(40, DIM)
    choice = softmax_top_k(random(40, EXPERTS), 2, normalised=True)
    together = experts(x, choice)
    for token in (0, 17, 39):
        at = slice(token, token + 1)
        alone = experts(x[at], Choice(choice.weights[at], choice.experts[at]))
        torch.testing.assert_close(together[at], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [None, random(EXPERTS, 32)])
@pytest.mark.parametrize("counts", [[3, 0, 1, 7, 0, 2], [0, 0, 0, 0, 0, 5], [1, 1, 1, 1, 1, 1]])
def test_both_ways_of_multiplying_agree(dtype: torch.dtype, bias: Tensor | None, counts: list[int]) -> None:
    """That of torch is used on CUDA, and is right on any device."""
    x, weights = random(sum(counts), DIM).to(dtype), random(EXPERTS, 32, DIM).to(dtype)
    ends, given = torch.tensor(counts).cumsum(0), None if bias is None else bias.to(dtype)
    first, second = (product(x, weights, ends, given) for product in (one_by_one, grouped))
    torch.testing.assert_close(first, second, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0)


def test_experts_nobody_chose_are_not_touched() -> None:
    experts, x = built(), random(5, DIM)
    assert experts.gate_up_proj.weight is not None
    experts.gate_up_proj.weight.data[3] = float("nan")
    chosen = torch.tensor([[0, 1], [2, 4], [5, 0], [1, 2], [4, 5]])
    assert experts(x, Choice(torch.ones(5, 2), chosen)).isfinite().all()


LOGITS = torch.tensor([[1.0, 3.0, -1.0, 2.0], [0.0, -2.0, 4.0, 1.0]])


@pytest.mark.parametrize(
    ("choose", "weights"),
    [
        (lambda each: softmax_top_k(each, 2, normalised=False), LOGITS.softmax(-1)),
        (lambda each: softmax_top_k(each, 2, normalised=False, scale=2.5), LOGITS.softmax(-1) * 2.5),
        (lambda each: top_k_sigmoid(each, 2), LOGITS.sigmoid()),
    ],
)
def test_weights_of_the_best(choose: Callable[[Tensor], Choice], weights: Tensor) -> None:
    choice = choose(LOGITS)
    assert choice.experts.tolist() == [[1, 3], [2, 3]]
    torch.testing.assert_close(choice.weights, weights.gather(1, choice.experts))


@pytest.mark.parametrize("choose", [top_k_softmax, lambda each, k: softmax_top_k(each, k, normalised=True)])
def test_weights_that_sum_to_one(choose: Callable[[Tensor, int], Choice]) -> None:
    choice = choose(LOGITS.bfloat16(), 2)
    assert choice.weights.dtype == torch.float32
    torch.testing.assert_close(choice.weights, torch.tensor([[3.0, 2.0], [4.0, 1.0]]).softmax(-1))


def test_groups_shut_out_good_experts() -> None:
    """Expert 3 is the second best of all, but the group of the best one is enough."""
    groups = ExpertGroups(count=2, top=1)
    assert group_limited_softmax(LOGITS[:1], 2, groups).experts.tolist() == [[1, 0]]
    uncorrected = corrected_sigmoid(LOGITS[:1], torch.zeros(4), 2, groups, normalised=False)
    assert uncorrected.experts.tolist() == [[1, 0]]


def test_a_correction_chooses_but_does_not_weigh() -> None:
    correction = torch.tensor([0.0, -2.0, 0.0, 1.0])
    choice = corrected_sigmoid(LOGITS[:1], correction, 1, ExpertGroups(), normalised=False)
    assert choice.experts.tolist() == [[3]]
    torch.testing.assert_close(choice.weights, LOGITS[:1, 3:].sigmoid())
