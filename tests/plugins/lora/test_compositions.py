"""Adapters beside whatever else a request, a model or a server may have: texts are those of each request alone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

import maxserve
from maxserve.core.interfaces.request import AdapterChange, Constraint
from maxserve.testing.served import Answer, Served
from maxserve.testing.speculator import few_pages
from tests.plugins.gguf import conftest as gguf_files
from tests.plugins.lora.conftest import Base, run
from tests.plugins.quantization import conftest as packed_files
from tests.plugins.quantization.test_gptq import packed, settings
from tests.plugins.speculation import test_eagle
from tests.plugins.speculation.test_standalone import near_model

Requests = Mapping[str, tuple[str, Sequence[int]]]
ADAPTERS = ("", "all", "queries", "scaled")
PROMPTS = ([5, 6, 7] * 9, [9, 8], list(range(3, 40)))


def requests(adapters: Sequence[str] = ADAPTERS) -> Requests:
    """Each adapter, and none, behind each prompt."""
    pairs = itertools.product(adapters, range(len(PROMPTS)))
    return {f"{adapter or 'base'} {number}": (adapter, PROMPTS[number]) for adapter, number in pairs}


def same(found: Mapping[str, Answer], expected: Mapping[str, Answer], tolerance: float = 1e-4) -> None:
    for id, answer in expected.items():
        assert found[id].error is None, found[id].error
        assert found[id].tokens == answer.tokens, id
        assert found[id].logprobs == pytest.approx(answer.logprobs, abs=tolerance), id


def alone(engine: Any, asked: Requests, tokens: int = 8) -> dict[str, Answer]:
    """The same requests one after the other, and no prefix is found."""
    found = {}
    for id, request in asked.items():
        engine.reset_prefix_cache()
        found |= run(engine, {id: request}, tokens)
    engine.reset_prefix_cache()
    return found


def as_peft(base: Base, found: Mapping[str, Answer], asked: Requests, tolerance: float = 1e-4) -> None:
    for id, (adapter, prompt) in asked.items():
        expected = base.logprobs(adapter, [*prompt, *found[id].tokens])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(found[id].logprobs), expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def expected(llama: Base, plugin_host_of_module: Any) -> dict[str, Answer]:
    lora = {"enable_lora": True, "lora_paths": [f"{n}={llama.adapters[n]}" for n in ADAPTERS[1:]], "max_num_loras": 4}
    found = alone(Served(llama.folder, plugin_host_of_module, **lora).engine, requests(), tokens=24)
    assert len({tuple(answer.tokens) for answer in found.values()}) == len(found), "adapters change the answers"
    return found


@pytest.fixture(scope="module")
def plugin_host_of_module() -> Any:
    from maxserve.core.registry.host import PluginHost, PluginOptions

    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "chunks of 3": {"max_batch_input_tokens": 3},
    "whole prompts": {"enable_chunked_prefill": False, "max_batch_input_tokens": 64},
    "apart": {"enable_in_flight_batching": False},
    "several steps": {"max_num_steps": 4},
    "overlap": {"enable_overlap_scheduler": True},
    "no prefixes": {"enable_prefix_caching": False},
    "one slot": {"max_num_loras": 1},
    "by layers of torch": {"layer_compiler": "none"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_texts_do_not_depend_on_how_they_are_scheduled(
    llama: Base, served: Callable[..., Served], expected: dict[str, Answer], options: str
) -> None:
    engine = served(llama, ADAPTERS[1:], **{"max_batch_size": 6, **OPTIONS[options]}).engine
    for _ in range(2):  # prefixes are found the second time
        same(run(engine, requests(), tokens=24), expected)
    engine.check()


def test_texts_of_preempted_requests(
    llama: Base, served: Callable[..., Served], expected: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages for two or three of the texts; slots for two of three adapters, which change with those who run."""
    few_pages(monkeypatch, 9)
    engine = served(llama, ADAPTERS[1:], max_batch_size=6, max_num_loras=2, max_length=128).engine
    same(run(engine, requests(), tokens=24), expected)
    assert engine.stats().preemptions > 0
    assert engine.stats().adapters == ()
    engine.check()


def test_prefixes_are_those_of_one_generation(llama: Base, served: Callable[..., Served]) -> None:
    engine, prompt = served(llama, ["all", "queries"]).engine, list(range(3, 40))
    asked = {adapter: run(engine, {adapter: (adapter, prompt)})[adapter] for adapter in ("", "all", "queries")}
    assert {adapter: answer.cached for adapter, answer in asked.items()} == {"": 0, "all": 0, "queries": 0}
    for adapter, answer in asked.items():
        again = run(engine, {adapter: (adapter, prompt)})[adapter]
        assert (again.cached, again.tokens) == (32, answer.tokens)
    source = str(llama.adapters["queries"])
    engine.change_adapter(AdapterChange(id="c", action="load", name="all", source=source, replace=True))
    while engine.busy:
        engine.next_outputs()
    replaced = run(engine, {"all": ("all", prompt)})["all"]
    assert (replaced.cached, replaced.tokens) == (0, asked["queries"].tokens), "not even those of the same folder"


@pytest.mark.parametrize("method", ["ngram", "standalone", "eagle"])
@pytest.mark.parametrize("options", [{}, {"max_num_loras": 1, "max_batch_input_tokens": 7}], ids=["", "one slot"])
def test_drafts_change_no_text(
    make_base: Callable[..., Base], plugin_host: Any, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    """Whatever drafts is unadapted, and so all drafts of the base itself stand for requests without an adapter."""
    base = make_base("LlamaForCausalLM", num_hidden_layers=test_eagle.LAYERS)
    base.adapter("all", seed=1, r=8)
    base.adapter("queries", seed=2, target_modules=["q_proj", "v_proj"])
    lora = {"enable_lora": True, "lora_paths": [f"{name}={path}" for name, path in base.adapters.items()]}
    lora |= {"max_num_loras": 2, "max_length": 128, **options}
    asked = requests(["", "all", "queries"])
    plain = alone(Served(base.folder, plugin_host(), **lora).engine, asked, tokens=24)
    draft = {"standalone": base.folder, "eagle": tmp_path / "head"}.get(method)
    if method == "eagle":
        test_eagle.head3(tmp_path / "head")
    drafting = {"speculative_method": method, "num_speculative_tokens": 3}
    drafting |= {} if draft is None else {"draft_model_path": str(draft)}
    engine = Served(base.folder, plugin_host(), **lora, **drafting).engine
    for _ in range(2):
        same(run(engine, asked, tokens=24), plain)
    assert engine.stats().draft_tokens > 20
    if method == "standalone":
        before = engine.stats()
        found = run(engine, {id: each for id, each in asked.items() if not each[0]}, tokens=24)
        same(found, {id: plain[id] for id in found})
        after = engine.stats()
        assert after.accepted_tokens - before.accepted_tokens == after.draft_tokens - before.draft_tokens > 20
    engine.check()


def test_a_draft_model_that_is_near_the_base_drafts_for_adapters(
    llama: Base, served: Callable[..., Served], expected: dict[str, Answer], tmp_path: Path
) -> None:
    near_model(llama.folder, tmp_path / "draft")
    drafting = {"speculative_method": "standalone", "draft_model_path": str(tmp_path / "draft"), "max_length": 128}
    engine = served(llama, ADAPTERS[1:], **drafting).engine
    same(run(engine, requests(), tokens=24), expected)
    stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens


def test_thirty_two_streams_one_to_one(llama: Base, served: Callable[..., Served]) -> None:
    prompts = [np.random.default_rng(seed).integers(3, 90, 5 + seed).tolist() for seed in range(32)]
    names = [*llama.adapters]
    asked = {str(i): (names[i // 2 % len(names)] if i % 2 else "", prompt) for i, prompt in enumerate(prompts)}
    engine = served(llama, max_batch_size=32, max_batch_input_tokens=256).engine
    same(run(engine, asked, tokens=16), alone(engine, asked, tokens=16))
    same(run(engine, asked, tokens=16), alone(served(llama, layer_compiler="none").engine, asked, tokens=16))


@pytest.mark.parametrize("format", ["int8", "float8_e4m3fn"])
def test_a_cache_of_codes(llama: Base, served: Callable[..., Served], expected: Any, format: str) -> None:
    engine = served(llama, ADAPTERS[1:], kv_cache_format=format).engine
    found = alone(engine, requests(), tokens=24)
    mixed = run(engine, requests(), tokens=24)
    assert {id: answer.tokens for id, answer in mixed.items()} == {id: answer.tokens for id, answer in found.items()}
    assert sum(mixed[id].logprobs != expected[id].logprobs for id in mixed) > 9, "the cache is one of codes"


# --- bases whose weights are codes: PEFT has the weights that these stand for ---------------------------------------


def with_adapters(plain: Path, cls: type[Any] = transformers.LlamaForCausalLM) -> Base:
    base = Base(plain, cls)
    base.adapter("all", seed=1, r=8)
    base.adapter("queries", seed=2, target_modules=["q_proj", "v_proj"])
    return base


def on_codes(base: Base, folder: Path, host: Any, **options: Any) -> None:
    lora = {"enable_lora": True, "lora_paths": [f"{n}={p}" for n, p in base.adapters.items()], "max_num_loras": 2}
    asked = requests(["", "all", "queries"])
    found = run(Served(folder, host, **lora, **options).engine, asked)
    as_peft(base, found, asked)
    assert len({round(answer.logprobs[0], 2) for answer in found.values()}) > 6, "adapters change the answers"


WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 128}
COMPILED = [pytest.param(True, marks=pytest.mark.compiler), False]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("type", ["Q4_0", "Q8_0"])
def test_weights_that_are_rounded_while_they_are_loaded(
    make_base: Callable[..., Base], plugin_host: Any, tmp_path: Path, type: str, compiled: bool
) -> None:
    source = make_base("LlamaForCausalLM", **WIDE).folder
    plain = shutil.copytree(source, tmp_path / "plain")
    weights = load_file(plain / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("_proj.weight", "lm_head.weight")):
            codes = gguf.quants.quantize(weight.numpy(), Type[type])
            weights[name] = torch.from_numpy(gguf.quants.dequantize(codes, Type[type])).to(weight.dtype).contiguous()
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    on_codes(with_adapters(plain), source, plugin_host(), quantization_encoding=type.lower(), use_subgraphs=compiled)


def _types(name: str) -> Type:
    return Type.F32 if "norm" in name else Type.Q8_0 if "attn_v" in name or "token_embd" in name else Type.Q4_0


@pytest.mark.compiler
def test_a_gguf_file(make_base: Callable[..., Base], plugin_host: Any, tmp_path: Path) -> None:
    model = make_base("LlamaForCausalLM", **WIDE).model()
    gguf_files.Writer(tmp_path / "tiny.gguf", model, "llama", _types, torch.float32).write({})
    model.save_pretrained(tmp_path / "plain")
    on_codes(with_adapters(tmp_path / "plain"), tmp_path / "tiny.gguf", plugin_host())


@pytest.mark.parametrize("compiled", COMPILED)
def test_a_gptq_checkpoint(plugin_host: Any, tmp_path: Path, compiled: bool) -> None:
    def pack(name: str, weight: torch.Tensor) -> Any:
        return packed(tuple(weight.shape), 4, 32) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    packed_files.made(tmp_path, "LlamaForCausalLM", pack, {"vocab_size": 96}, settings())
    on_codes(with_adapters(tmp_path / "plain"), tmp_path, plugin_host(), use_subgraphs=compiled)


# --- what requests may ask for ----------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"enum": [1, 22, 333]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("backend", ["llguidance", "outlines"])
@pytest.mark.parametrize("options", [{}, {"speculative_method": "ngram"}, {"max_num_steps": 4}], ids=str)
def test_a_schema_holds_for_adapters(model_folder: Any, backend: str, options: dict[str, Any]) -> None:
    base = with_adapters(model_folder())
    llm = maxserve.LLM(str(base.folder), lora={n: str(p) for n, p in base.adapters.items()}, **options)
    wanted = Constraint(kind="json_schema", text=json.dumps(SCHEMA), backend=backend)
    asked = {"max_tokens": 120, "temperature": 0.0, "constraint": wanted}
    names = ["", "all", "queries"]
    together = llm.generate(["the quick"] * 3, lora=names, **asked)
    for name, done in zip(names, together, strict=True):
        assert done.finish == "stop"
        assert json.loads(done.text)["age"] in (1, 22, 333)
        assert llm.generate("the quick", lora=name, **asked)[0].text == done.text
    assert len({done.text for done in together}) == 3


def test_scores_of_prompts_and_likeliest_tokens(model_folder: Any) -> None:
    """Those of the adapter, beside others."""
    base = with_adapters(model_folder())
    llm = maxserve.LLM(str(base.folder), lora={n: str(p) for n, p in base.adapters.items()})
    asked = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True, "logprobs": 3, "prompt_logprobs": 1}
    names = ["", "all", "queries"]
    for name, done in zip(names, llm.generate(["the quick brown fox"] * 3, lora=names, **asked), strict=True):
        tokens = [*llm.tokenizer.encode("the quick brown fox", add_special_tokens=True), *done.tokens]
        expected = base.logprobs(name, tokens)
        found = [each.logprob for each in (*done.prompt_logprobs, *done.logprobs)]
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=0)
        assert all(each.ids[0] == each.token for each in done.logprobs), "greedy takes the likeliest"
