"""Adapters of what families have compute here what they compute with PEFT: mixed, in pieces, cached, preempted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.testing.served import GREEDY, Answer, Served
from tests.plugins.lora.conftest import Base, quiet, run

LONG, SHORT, OTHER = tuple(range(40, 75)), tuple(range(9, 30)), (3, 1, 4, 1, 5, 9, 2, 6)
Requests = Mapping[str, tuple[str, Sequence[int]]]


def check(base: Base, answers: Mapping[str, Answer], requests: Requests) -> None:
    """Log probabilities of all that was answered are PEFT's."""
    for id, (adapter, prompt) in requests.items():
        answer = answers[id]
        assert answer.error is None
        expected = base.logprobs(adapter, [*prompt, *answer.tokens])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-4, rtol=0)


def check_all_ways(base: Base, served: Callable[..., Served]) -> None:
    """Adapters and base in one batch of chunked prompts, each alone with a prefix that is found, and preempted."""
    requests = {"base": ("", LONG)}
    requests |= {f"{name} {i}": (name, p) for name in base.adapters for i, p in enumerate((LONG, SHORT))}
    engine = served(base).engine
    mixed = run(engine, requests)
    check(base, mixed, requests)
    assert len({tuple(answer.logprobs) for answer in mixed.values()}) == len(requests), "adapters change the answers"
    for id, request in requests.items():
        run(engine, {id: request})
        alone = run(engine, {id: request})
        assert alone[id].cached >= 16
        check(base, alone, {id: request})
    interrupted = run(engine, requests, preempted_after=4)
    check(base, interrupted, requests)
    assert engine.stats().preemptions
    check_that_base_rows_stay(base, served)


def check_that_base_rows_stay(base: Base, served: Callable[..., Served]) -> None:
    """To the bit those of a server without LoRA, at the same place of the same batch."""
    prompts = {str(i): tuple(range(i, i + 20)) for i in range(5, 9)}
    plain = run(served(base, ()).engine, {id: ("", prompt) for id, prompt in prompts.items()})
    adapters = [*base.adapters][:1]
    mixed = run(
        served(base, adapters).engine, {id: (adapters[0] * (i % 2), p) for i, (id, p) in enumerate(prompts.items())}
    )
    for i, id in enumerate(prompts):
        assert (mixed[id].logprobs == plain[id].logprobs) == (i % 2 == 0)


def test_head_and_embedding(make_base: Callable[..., Base], served: Callable[..., Served]) -> None:
    base = make_base("LlamaForCausalLM")
    base.adapter("both", seed=1, r=8, lora_alpha=16, target_modules=["embed_tokens", "lm_head", "q_proj"])
    base.adapter("head", seed=2, r=4, target_modules=["lm_head"])
    base.adapter("table", seed=3, r=16, use_rslora=True, target_modules=["embed_tokens", "down_proj"])
    check_all_ways(base, served)


def test_heads_that_share_the_table_of_the_embedding(
    make_base: Callable[..., Base], served: Callable[..., Served]
) -> None:
    """Each is adapted by itself, unless the adapter says that they stay one."""
    base = make_base("LlamaForCausalLM", tie_word_embeddings=True)
    base.adapter("head", seed=1, r=4, target_modules=["lm_head", "v_proj"])
    base.adapter("table", seed=2, r=8, target_modules=["embed_tokens"])
    base.adapter("one", seed=3, r=8, lora_alpha=2, target_modules=["embed_tokens"], ensure_weight_tying=True)
    check_all_ways(base, served)
    weights = base.adapters["one"] / "adapter_model.safetensors"
    save_file({name: each for name, each in load_file(weights).items() if "lm_head" not in name}, weights)
    requests = {"one": ("one", SHORT)}
    check(base, run(served(base, ["one"]).engine, requests), requests)


def test_scores_of_prompts_are_those_of_the_adapted_head(
    make_base: Callable[..., Base], served: Callable[..., Served]
) -> None:
    base = make_base("LlamaForCausalLM")
    base.adapter("head", seed=2, r=4, target_modules=["lm_head"])
    engine = served(base).engine
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, fields=GREEDY)
    for id in ("head", ""):
        engine.add(Request(id=id, prompt=SHORT, params=params, adapter=id))
    found: dict[str, list[float]] = {}
    while engine.busy:
        for output in engine.next_outputs():
            found.setdefault(output.id, []).extend(each.logprob for each in output.prompt_logprobs or ())
    for id in ("head", ""):
        torch.testing.assert_close(torch.tensor(found[id]), base.logprobs(id, SHORT), atol=1e-4, rtol=0)


def test_rows_of_drafts_have_the_adapted_head(make_base: Callable[..., Base], served: Callable[..., Served]) -> None:
    base = make_base("LlamaForCausalLM")
    base.adapter("head", seed=2, r=4, target_modules=["lm_head", "embed_tokens"])
    engine = served(base, speculative_method="ngram", num_speculative_tokens=3).engine
    requests = {"head": ("head", (7, 8, 9) * 8), "base": ("", (7, 8, 9) * 8)}
    check(base, run(engine, requests, tokens=16), requests)
    assert engine.stats().draft_tokens


ATTENTION = ["q_proj", "o_proj"]
STACKED: dict[str, list[str]] = {
    "Qwen3MoeForCausalLM": ATTENTION,
    "GptOssForCausalLM": ATTENTION,  # [experts, inputs, outputs], gate and up side by side
    "Llama4ForCausalLM": ATTENTION,  # [experts, inputs, outputs], which PEFT does not know
    "DeepseekV3ForCausalLM": ["q_a_proj", "o_proj"],
}


@pytest.mark.parametrize("architecture", STACKED)
def test_experts_as_parameters(
    make_base: Callable[..., Base], served: Callable[..., Served], architecture: str
) -> None:
    base, modules = make_base(architecture), STACKED[architecture]
    both = ["experts.gate_up_proj", "experts.down_proj"]
    base.adapter("both", seed=1, r=4, target_modules=modules, target_parameters=both, alpha_pattern={both[1]: 16})
    base.adapter("down", seed=2, r=8, use_rslora=True, target_modules=[], target_parameters=both[1:])
    base.adapter("up", seed=3, r=2, target_modules=modules, target_parameters=["gate_up_proj"])
    check_all_ways(base, served)


NAMED = {
    "Qwen3MoeForCausalLM": ("mlp", {"gate_proj": (32, 64), "up_proj": (32, 64), "down_proj": (64, 32)}),
    "MixtralForCausalLM": ("block_sparse_moe", {"w1": (96, 64), "w3": (96, 64), "w2": (64, 96)}),
}


@pytest.mark.parametrize("architecture", NAMED)
def test_experts_by_name(make_base: Callable[..., Base], served: Callable[..., Served], architecture: str) -> None:
    """As older releases of PEFT saved them, which newer ones still read."""
    base, (mixture, shapes) = make_base(architecture), NAMED[architecture]
    folder = base.adapter("named", r=4, target_modules=["q_proj"])
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, generator = load_file(weights), torch.Generator().manual_seed(3)
    layers, experts = base.model().config.num_hidden_layers, base.model().config.num_local_experts
    for layer, expert, (name, (outputs, inputs)) in product(range(layers), range(experts), shapes.items()):
        module = f"base_model.model.model.layers.{layer}.{mixture}.experts.{expert}.{name}"
        tensors[f"{module}.lora_A.weight"] = torch.randn(4, inputs, generator=generator) / inputs**0.5
        tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, 4, generator=generator) * 0.2
    save_file(tensors, weights)
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": ["q_proj", *shapes]}))
    check_all_ways(base, served)
    with quiet():  # as PEFT saves what it has read: in fewer tensors, of twice the rank
        peft.PeftModel.from_pretrained(base.model(), folder).save_pretrained(str(folder))
    assert not any("experts.0." in name for name in load_file(weights))
    requests = {"again": ("named", SHORT)}
    check(base, run(served(base).engine, requests), requests)


QUERIES = ["q_a_proj", "q_b_proj"]


@pytest.mark.parametrize("architecture", ["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"])
def test_latent_attention(make_base: Callable[..., Base], served: Callable[..., Served], architecture: str) -> None:
    """Keys and values of the latent vectors are never made, and corrected all the same."""
    base = make_base(architecture)
    base.adapter("keys", seed=1, r=8, lora_alpha=16, target_modules=["kv_b_proj"])
    base.adapter("all", seed=2, r=4, target_modules=["kv_b_proj", "kv_a_proj_with_mqa", "o_proj", *QUERIES])
    base.adapter("queries", seed=3, r=16, use_rslora=True, target_modules=QUERIES)
    check_all_ways(base, served)


FALLBACK: dict[str, list[str]] = {
    "Starcoder2ForCausalLM": ["q_proj", "k_proj", "c_fc", "c_proj"],
    "GPTNeoXForCausalLM": ["query_key_value", "dense", "dense_4h_to_h"],
    "GPT2LMHeadModel": ["c_attn", "c_fc", "c_proj"],  # Conv1D, a head that shares the table
}


@pytest.mark.parametrize("architecture", FALLBACK)
def test_classes_of_transformers(
    make_base: Callable[..., Base], served: Callable[..., Served], architecture: str
) -> None:
    """Run as transformers has written them, also with a head of another name."""
    base, modules = make_base(architecture), FALLBACK[architecture]
    model = base.model()
    table = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    base.adapter("all", seed=1, r=8, lora_alpha=16, target_modules=modules)
    base.adapter("head", seed=2, r=4, target_modules=[head, modules[0]])
    base.adapter("table", seed=3, r=16, use_rslora=True, target_modules=[table])
    check_all_ways(base, served)
