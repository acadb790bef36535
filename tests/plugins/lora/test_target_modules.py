"""Slots for some modules alone, which --lora-target-modules says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.served import Served
from tests.plugins.lora.conftest import Base, run

PROMPT = tuple(range(5, 24))


@pytest.fixture(scope="module")
def base(make_base: Callable[..., Base]) -> Base:
    made = make_base("Qwen3MoeForCausalLM")
    made.adapter("queries", seed=1, target_modules=["q_proj"])
    made.adapter("attention", seed=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    made.adapter(
        "experts",
        seed=3,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    return made


def slots(engine: Served) -> int:
    """Bytes of the slots."""
    taken: int = engine.engine._adapters.memory
    return taken


@pytest.mark.parametrize(
    ("names", "served_names"), [(("self_attn",), ("queries", "attention")), (("q_proj",), ("queries",))]
)
def test_what_is_named_is_served_and_has_slots(
    base: Base, served: Callable[..., Served], names: tuple[str, ...], served_names: tuple[str, ...]
) -> None:
    """As with slots for all modules, and in less memory."""
    engine = served(base, served_names, lora_target_modules=names)
    answers = run(engine.engine, {name: (name, PROMPT) for name in ("", *served_names)})
    for name in served_names:
        expected = base.logprobs(name, [*PROMPT, *answers[name].tokens])[len(PROMPT) - 1 :]
        torch.testing.assert_close(torch.tensor(answers[name].logprobs), expected, atol=1e-4, rtol=0)
    assert 0 < slots(engine) < slots(served(base, ("queries",))) / 2


@pytest.mark.parametrize(
    ("names", "adapter", "module"),
    [
        (("self_attn",), "experts", r"mlp\.experts\.(gate_up|down)_proj"),
        (("q_proj", "o_proj"), "attention", r"self_attn\.[kv]_proj"),
        (("experts",), "queries", r"self_attn\.q_proj"),
    ],
)
def test_an_adapter_of_others_is_refused_by_name(
    base: Base, served: Callable[..., Served], names: tuple[str, ...], adapter: str, module: str
) -> None:
    with pytest.raises(
        SettingsError, match=rf"it adapts \S*{module}, for which there are no slots; add it to --lora-t"
    ):
        served(base, (adapter,), lora_target_modules=names)


def test_experts_have_slots_by_the_names_of_parts_and_none_by_longer_names(
    make_base: Callable[..., Base], served: Callable[..., Served]
) -> None:
    """PEFT adapts experts, too, where gate_proj and up_proj are its targets: the short name must have slots there."""
    mixed = make_base("Qwen3MoeForCausalLM", mlp_only_layers=[0])
    mixed.adapter("all", seed=1, target_modules=["gate_proj", "up_proj"])
    mixed.adapter("queries", seed=2, target_modules=["q_proj"])
    engine = served(mixed, lora_target_modules=("q_proj", "gate_proj", "up_proj"))
    answer = run(engine.engine, {"all": ("all", PROMPT)})["all"]
    expected = mixed.logprobs("all", [*PROMPT, *answer.tokens])[len(PROMPT) - 1 :]
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-4, rtol=0)
    long = ("q_proj", "mlp.gate_proj", "mlp.up_proj")
    assert slots(served(mixed, ("queries",), lora_target_modules=long)) < slots(engine) / 2
    with pytest.raises(SettingsError, match=r"it adapts \S*experts\S*, for which there are no slots"):
        served(mixed, ("all",), lora_target_modules=long)


def test_what_the_model_does_not_have_is_refused_with_what_it_has(base: Base, served: Callable[..., Served]) -> None:
    with pytest.raises(
        SettingsError, match=r"--lora-target-modules qq_proj: the model has no such module; it has .*q_proj"
    ):
        served(base, ("queries",), lora_target_modules=("q_proj", "qq_proj"))
    with pytest.raises(SettingsError, match=r"^--lora-target-modules: that changes nothing without --enable-lora"):
        served(base, (), lora_target_modules=("q_proj",))


def test_the_log_says_what_experts_take(
    base: Base, served: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "maxserve.lora"):
        engine: Any = served(base, ("queries",))
    assert "each slot of adapters takes: " in caplog.text
    assert "experts " in caplog.text
    assert slots(engine) > 0
