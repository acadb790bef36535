"""Adapters of bfloat16 models: factors are held in it where the processor multiplies it, as rows are rounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from maxserve.core.interfaces.adapter import AdapterContext, Projection
from maxserve.plugins.lora.corrections import LoRACorrection, Packed, SlotMemory, factor_sizes
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.plugins.lora.table import LoRATable
from maxserve.testing.adapter import in_slots
from maxserve.testing.served import Served
from tests.plugins.lora.conftest import Base, run

REQUESTS = {
    "base": ("", tuple(range(5, 24))),
    "one": ("one", tuple(range(40, 75))),
    "two": ("two", tuple(range(9, 30))),
    "again": ("two", (3, 1, 4, 1, 5, 9, 2, 6)),
}


@pytest.fixture(scope="module")
def base(make_base: Callable[..., Base]) -> Base:
    base = make_base("LlamaForCausalLM", dtype=torch.bfloat16)
    base.adapter("one", seed=1, r=8, lora_alpha=16)
    base.adapter("two", seed=2, r=12, target_modules=["q_proj", "v_proj", "down_proj"])
    return base


@pytest.mark.parametrize("compiler", ["auto", "none"])
@pytest.mark.parametrize("precision", ["auto", "exact"])
def test_adapted_rows_are_as_near_to_peft_as_those_of_the_base(
    base: Base, served: Callable[..., Served], compiler: str, precision: str
) -> None:
    engine = served(base, layer_compiler=compiler, native__precision=precision).engine
    answers = run(engine, REQUESTS)
    away = {}
    for id, (adapter, prompt) in REQUESTS.items():
        tokens = [*prompt, *answers[id].tokens]
        found = torch.tensor(answers[id].logprobs)
        away[id] = (found - base.logprobs(adapter, tokens)[len(prompt) - 1 :]).square().mean().sqrt().item()
        if adapter:
            other = (found - base.logprobs("", tokens)[len(prompt) - 1 :]).square().mean().sqrt().item()
            assert away[id] < other / 20, "the adapter changes far more than rounding does"
    assert max(away.values()) < (1e-4 if precision == "exact" else max(1e-4, 2 * away["base"])), away


WIDE = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32}


@pytest.fixture(scope="module")
def wide(make_base: Callable[..., Base]) -> Base:
    """Of widths that matrix units multiply, with ranks of a half, of one and of one and a half of their tiles."""
    base = make_base("LlamaForCausalLM", dtype=torch.bfloat16, **WIDE)
    for seed, rank in enumerate((16, 32, 48), 1):
        base.adapter(f"r{rank}", seed=seed, r=rank, lora_alpha=2 * rank)
    base.adapter("down", seed=4, r=40, lora_alpha=40, target_modules=["o_proj", "down_proj"])
    return base


def test_rows_of_an_adapter_are_the_same_however_many_have_it(wide: Base, served: Callable[..., Served]) -> None:
    adapters = ("r16", "r32", "r48", "down", "")
    prompt = tuple(range(5, 25))
    crowd = {f"{name}-{i}": (name, (*prompt[: 1 + i % 7], 30 + i)) for i in range(9) for name in adapters[: 5 - i // 3]}
    asked = {name: (name, prompt) for name in adapters}
    engine = served(wide, max_batch_size=48, max_lora_rank=48, max_num_loras=4, enable_prefix_caching=False).engine
    together = run(engine, asked | crowd, tokens=100)
    for name, request in asked.items():
        alone = run(engine, {name: request}, tokens=100)[name]
        assert alone.tokens == together[name].tokens
        assert alone.logprobs == together[name].logprobs, f"{name}: other bits beside other rows"
    for name in adapters[:-1]:
        tokens = [*prompt, *together[name].tokens]
        away = torch.tensor(together[name].logprobs) - wide.logprobs(name, tokens)[len(prompt) - 1 :]
        other = torch.tensor(together[name].logprobs) - wide.logprobs("", tokens)[len(prompt) - 1 :]
        assert away.square().mean() < other.square().mean() / 25


@pytest.mark.parametrize("rows", [torch.float32, torch.bfloat16])
def test_factors_are_of_the_type_that_rows_are_rounded_to(rows: torch.dtype) -> None:
    context = AdapterContext(
        sections={LoRAOptions: LoRAOptions(enable_lora=True, max_lora_rank=16, max_num_loras=2)},
        compute=torch.float32,
        rows=rows,
        device=torch.device("cpu"),
        projections={"o_proj": Projection(name="o_proj", inputs=32, outputs=48)},
    )
    table = LoRATable(context)
    correction = table.correction(context.projections["o_proj"])
    assert correction.down.dtype == correction.up.dtype == rows
    assert table.memory() == correction.down.nbytes + correction.up.nbytes == 2 * 16 * (32 + 48) * rows.itemsize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_in_panels_are_the_same_factors(dtype: torch.dtype) -> None:
    """For layers that run as they are written; sizes are no multiples of those of panels."""
    projection = Projection(name="qkv", inputs=41, outputs=43, parts={"q": 21, "k": 11, "v": 11})
    packed = Packed(torch.randn(1, 41, 3, 16).to(dtype), torch.randn(1, 16, 43).to(dtype))
    x, outcomes = torch.randn(2, 41), []
    for panels in (False, True):
        memory = SlotMemory(3, sum(factor_sizes(projection, 32)), dtype, torch.device("cpu"))
        correction = LoRACorrection(projection, 32, memory)
        if panels:
            correction.lay_in_panels()
        correction.place(packed, 2)
        outcomes.append(correction(x, torch.zeros(2, 43), in_slots([2, 0])))
    torch.testing.assert_close(*outcomes)
    assert outcomes[0].any(dim=1).tolist() == [True, False]
