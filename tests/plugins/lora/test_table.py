"""Adapters of PEFT's folders compute here what they compute with PEFT."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maxserve.adapters import locator_of
from maxserve.core.interfaces.adapter import AdapterContext, Projection
from maxserve.core.interfaces.architecture import TensorChange, WeightMap
from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.plugins.lora.table import LoRATable
from maxserve.testing.adapter import in_slots
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


def test_rows_that_the_model_has_in_another_order_are_moved_in_the_projections_that_have_them(tmp_path: Path) -> None:
    """Of one module of the checkpoint that is several projections, as when the weights are loaded."""
    projections = {name: Projection(name=name, inputs=6, outputs=4) for name in ("q_proj", "k_proj", "v_proj")}
    flipped = TensorChange(names=r"[qk]_proj\.weight$", apply=lambda tensor: tensor.flip(0))
    weights = WeightMap(split={"qkv": tuple(projections)}, changes=(flipped,))
    options = LoRAOptions(enable_lora=True)
    context = AdapterContext(
        sections={LoRAOptions: options},
        compute=torch.float32,
        rows=torch.float32,
        device=torch.device("cpu"),
        projections=projections,
        locate=locator_of(projections, weights),
    )
    table = LoRATable(context)
    corrections = {name: table.correction(projection) for name, projection in projections.items()}
    down, up = torch.randn(4, 6), torch.randn(12, 4)
    tensors = {"base_model.model.qkv.lora_A.weight": down, "base_model.model.qkv.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    table.place(table.load("a", str(tmp_path)), 1)
    x = torch.randn(2, 6)
    for (name, correction), rows in zip(corrections.items(), up.split(4), strict=True):
        expected = x @ down.T @ (rows if name == "v_proj" else rows.flip(0)).T
        torch.testing.assert_close(correction(x, torch.zeros(2, 4), in_slots([1, 1])), expected)


def test_a_link_in_the_place_of_an_adapter_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    """A new worker is given real paths that were found for the one before it."""
    home, secret = tmp_path / "adapters", tmp_path / "secret"
    tensors = {
        "base_model.model.q.lora_A.weight": torch.ones(4, 6),
        "base_model.model.q.lora_B.weight": torch.ones(6, 4),
    }
    for folder in (home / "sql", home / "other", secret):
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    projections = {"q": Projection(name="q", inputs=6, outputs=6)}
    options = LoRAOptions(enable_lora=True, lora_dir=str(home))
    table = LoRATable(
        AdapterContext(
            sections={LoRAOptions: options},
            compute=torch.float32,
            rows=torch.float32,
            device=torch.device("cpu"),
            projections=projections,
            locate=locator_of(projections, WeightMap()),
        )
    )
    source = os.path.realpath(home / "sql")
    assert table.load("sql", source)
    shutil.rmtree(source)
    (home / "sql").symlink_to(home / "other")
    assert table.load("sql", source)
    (home / "sql").unlink()
    (home / "sql").symlink_to(secret)
    with pytest.raises(RequestError, match="lies outside of the folder of --lora-dir"):
        table.load("sql", source)
    assert table.load("sql", os.path.realpath(secret)), "which the operator named, or a source found"
