"""Adapters of a model that ranks share: texts of one rank, loading and unloading on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.request import AdapterChange
from maxserve.testing.adapter import constant_adapters
from maxserve.testing.ranks import assert_same_texts, served_in_ranks, texts
from maxserve.testing.served import Answer, Served
from tests.plugins.lora.conftest import Base, run

LONG, SHORT = tuple(range(40, 75)), tuple(range(9, 30))
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
Adapters = Sequence[Mapping[str, Any]]
FAMILIES: dict[str, tuple[str, dict[str, Any], Adapters]] = {
    "all projections": ("LlamaForCausalLM", {}, [{"r": 8}, {"r": 4, "target_modules": ["q_proj", "down_proj"]}]),
    "tables": ("LlamaForCausalLM", {}, [{"target_modules": ["embed_tokens", "lm_head", "o_proj"]}]),
    "a tied table of odd size": (
        "LlamaForCausalLM",
        {"tie_word_embeddings": True, "vocab_size": 95},
        [{"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, {"target_modules": ["lm_head", "v_proj"]}],
    ),
    "fused": ("Phi3ForCausalLM", {}, [{"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}]),
    "experts": ("Qwen3MoeForCausalLM", {}, [{"target_modules": ["q_proj", "o_proj"], "target_parameters": EXPERTS}]),
    "experts in pairs": ("GptOssForCausalLM", {}, [{"target_modules": ["q_proj"], "target_parameters": EXPERTS}]),
    "latent": (
        "DeepseekV3ForCausalLM",
        {},
        [{"target_modules": ["kv_b_proj", "kv_a_proj_with_mqa", "o_proj", "q_a_proj", "q_b_proj"]}],
    ),
}


def check(base: Base, answers: Mapping[str, Answer], requests: Mapping[str, tuple[str, Sequence[int]]]) -> None:
    """Log probabilities of all that was answered are PEFT's."""
    for id, (adapter, prompt) in requests.items():
        assert answers[id].error is None
        expected = base.logprobs(adapter, [*prompt, *answers[id].tokens])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(answers[id].logprobs), expected, atol=1e-4, rtol=0)


def in_two(base: Base, plugin_host: Any, work: Callable[[Served], Any], **options: Any) -> Any:
    paths = [f"{name}={folder}" for name, folder in base.adapters.items()]
    lora = {"enable_lora": True, "lora_paths": paths, "max_num_loras": 2}
    return served_in_ranks(base.folder, plugin_host(), 2, work, **{**lora, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_compute_what_peft_does(
    family: str, make_base: Callable[..., Base], served: Callable[..., Served], plugin_host: Any
) -> None:
    """Greedy and seeded texts are those of one rank; adapters and base in one batch of chunked prompts."""
    architecture, config, adapters = FAMILIES[family]
    base = make_base(architecture, **config)
    for seed, changes in enumerate(adapters):
        base.adapter(f"a{seed}", seed=seed + 1, **changes)
    requests = {"base": ("", LONG)}
    requests |= {f"{name} {i}": (name, p) for name in base.adapters for i, p in enumerate((LONG, SHORT))}

    def work(engine: Served) -> Any:
        return run(engine.engine, requests), texts(engine, "a0")

    (answers, found), (_, due) = in_two(base, plugin_host, work), work(served(base))
    check(base, answers, requests)
    assert len({tuple(answer.logprobs) for answer in answers.values()}) == len(requests), "adapters change the answers"
    assert_same_texts(found, due)


def test_they_change_on_all_ranks_while_requests_run(llama: Base, plugin_host: Any) -> None:
    """More adapters than slots, loaded, replaced and unloaded between steps."""
    names = [*llama.adapters]

    def work(served: Served) -> None:
        engine = served.engine

        def change(action: str, name: str, source: str = "", **fields: Any) -> None:
            engine.change_adapter(AdapterChange(id=name, action=action, name=name, source=source, **fields))
            while engine.busy:
                engine.next_outputs()

        for name in names:
            change("load", name, str(llama.adapters[name]))
            requests = {"one": (name, SHORT), "base": ("", LONG)}
            check(llama, run(engine, requests), requests)
        change("load", names[0], str(llama.adapters[names[1]]), replace=True)
        answer = run(engine, {"replaced": (names[0], LONG)})
        check(llama, answer, {"replaced": (names[1], LONG)})
        change("unload", names[2])
        again = {"one": (names[3], LONG), "two": (names[1], SHORT)}
        check(llama, run(engine, again), again)
        engine.check()

    in_two(llama, plugin_host, work, lora_paths=[])


def test_scores_of_prompts(make_base: Callable[..., Base], plugin_host: Any) -> None:
    """Logits of further rows have the adapted head."""
    from maxserve.core.interfaces.request import Request, SamplingParams
    from maxserve.testing.served import GREEDY

    base = make_base("LlamaForCausalLM")
    base.adapter("head", seed=2, r=4, target_modules=["lm_head"])

    def work(served: Served) -> dict[str, list[float]]:
        for id in ("head", ""):
            params = SamplingParams(max_tokens=1, prompt_logprobs=0, fields=GREEDY)
            served.engine.add(Request(id=id, prompt=SHORT, params=params, adapter=id))
        found: dict[str, list[float]] = {}
        while served.engine.busy:
            for output in served.engine.next_outputs():
                found.setdefault(output.id, []).extend(each.logprob for each in output.prompt_logprobs or ())
        return found

    for id, logprobs in in_two(base, plugin_host, work).items():
        torch.testing.assert_close(torch.tensor(logprobs), base.logprobs(id, SHORT), atol=1e-4, rtol=0)


def test_adapters_that_cannot_be_sent_are_named(model_folder: Any, plugin_host: Any) -> None:
    host = plugin_host(constant_adapters({"one": 1.0}))
    with pytest.raises(SettingsError, match="adapters of a ConstantTable do not go with several ranks"):
        served_in_ranks(model_folder(), host, 2, lambda served: None)
