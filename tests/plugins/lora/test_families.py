"""Adapters of what families have compute here what they compute with PEFT: mixed, in pieces, cached, preempted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import load_file, save_file

from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.testing.served import GREEDY, Answer, Served
from tests.plugins.lora.conftest import Base, run

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
