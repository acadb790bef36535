"""Adapters of PEFT's folders compute here what they compute with PEFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maxserve.testing.served import Served
from tests.plugins.lora.conftest import Base, run

PROMPTS = {
    "": tuple(range(5, 24)),
    "all": tuple(range(40, 75)),
    "queries": tuple(range(9, 30)),
    "scaled": (3, 1, 4, 1, 5, 9, 2, 6),
    "patterns": tuple(range(60, 20, -1)),
}


def check(base: Base, answers: dict[str, Any], requests: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    for id, (adapter, prompt) in requests.items():
        answer = answers[id]
        expected = base.logprobs(adapter, [*prompt, *answer.tokens])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-4, rtol=0)


def test_adapters_of_different_ranks_and_targets_in_one_batch(llama: Base, served: Callable[..., Served]) -> None:
    requests = {adapter or "base": (adapter, prompt) for adapter, prompt in PROMPTS.items()}
    engine = served(llama).engine
    mixed = run(engine, requests)
    check(llama, mixed, requests)
    for id, request in requests.items():
        alone = run(engine, {id: request})[id]
        assert alone.tokens == mixed[id].tokens
    assert len({tuple(answer.tokens) for answer in mixed.values()}) == len(requests), "adapters change the answers"


@pytest.mark.parametrize("compiler", ["auto", "none"])
def test_base_rows_are_untouched_by_adapted_ones_beside_them(
    llama: Base, served: Callable[..., Served], compiler: str
) -> None:
    """To the bit those of a server without LoRA, at the same place of the same batch."""
    prompts = [tuple(range(i, i + 20)) for i in range(5, 9)]
    plain = run(served(llama, (), layer_compiler=compiler).engine, {str(i): ("", p) for i, p in enumerate(prompts)})
    mixed = {str(i): ("all" if i % 2 else "", p) for i, p in enumerate(prompts)}
    answers = run(served(llama, layer_compiler=compiler).engine, mixed)
    for i in range(len(prompts)):
        same = answers[str(i)].logprobs == plain[str(i)].logprobs
        assert same == (i % 2 == 0)


FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM": {},
    "Phi3ForCausalLM": {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    "Gemma2ForCausalLM": {},
    "DeepseekV2ForCausalLM": {"target_modules": ["q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"]},
    "Qwen3MoeForCausalLM": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_families(make_base: Callable[..., Base], served: Callable[..., Served], architecture: str) -> None:
    """Fused weights of checkpoints, latent attention, attention beside mixtures."""
    base = make_base(architecture)
    base.adapter("one", seed=1, r=8, **FAMILIES[architecture])
    requests = {"base": ("", PROMPTS["all"]), "one": ("one", PROMPTS["queries"])}
    check(base, run(served(base).engine, requests), requests)
