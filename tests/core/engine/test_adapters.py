"""Adapters correct the rows of the requests that name them, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maxserve.core.engine.adapters import adapt
from maxserve.core.interfaces.errors import RequestError, SettingsError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.linear import ExactLinear, Linear
from maxserve.testing.adapter import constant_adapters
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Answer, Served
from maxserve.testing.tiny_configs import tiny_config

ADAPTERS = {"small": 0.5, "large": 3.0}
PROMPT = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"])
    randomised(ArchitectureChecks.reference(config)).save_pretrained(made)  # type: ignore[operator]
    return made


def test_rows_of_slot_0_stay_and_others_get_the_constant(plugin_host: Any) -> None:
    model = torch.nn.ModuleDict({"o_proj": Linear(4, 3), "router_o_proj": ExactLinear(4, 3), "lm_head": Linear(4, 3)})
    host, x = plugin_host(constant_adapters(ADAPTERS)), torch.randn(3, 4)
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    plain = {name: module(x) for name, module in model.items()}
    names, slots = adapt(host, {}, model, torch.float32, torch.device("cpu"))
    assert names == {"small": 1, "large": 2}
    assert torch.equal(model["o_proj"](x), plain["o_proj"]), "no step has set any slots"
    slots.rows = torch.tensor([2, 0, 1])
    added = model["o_proj"](x) - plain["o_proj"]
    assert torch.equal(model["o_proj"](x)[1], plain["o_proj"][1])
    torch.testing.assert_close(added, torch.tensor([3.0, 0.0, 0.5])[:, None].expand(3, 3))
    for name in ("router_o_proj", "lm_head"):
        assert torch.equal(model[name](x), plain[name])


def run(engine: Any, adapters: dict[str, str]) -> dict[str, Answer]:
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0, fields={"temperature": {"temperature": 0.0}})
    answers = {id: Answer() for id in adapters}
    for id, adapter in adapters.items():
        engine.add(Request(id=id, prompt=PROMPT, params=params, adapter=adapter))
    while engine.busy:
        for output in engine.next_outputs():
            answers[output.id].tokens += output.tokens
            answers[output.id].logprobs += [entry.logprob for entry in output.logprobs]
            answers[output.id].cached = output.cached
    return answers


@pytest.mark.parametrize("overlap", [False, True])
def test_requests_get_the_adapter_that_they_name(plugin_host: Any, folder: Path, overlap: bool) -> None:
    """Together in one batch as each alone; a compiler passes over the layers, and no cached prefix is another's."""
    options = {"enable_overlap_scheduler": overlap, "kv_cache_page_size": 16}
    plain = run(Served(folder, plugin_host(), **options).engine, {"a": ""})["a"]
    engine = Served(folder, plugin_host(constant_adapters(ADAPTERS)), **options).engine
    mixed = run(engine, {"none": "", "small": "small", "large": "large"})
    assert mixed["none"].tokens == plain.tokens
    assert mixed["none"].logprobs == pytest.approx(plain.logprobs, abs=1e-4)
    for name in ADAPTERS:
        alone = run(Served(folder, plugin_host(constant_adapters(ADAPTERS)), **options).engine, {name: name})[name]
        assert mixed[name].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert mixed[name].logprobs != pytest.approx(plain.logprobs, abs=1e-2)
        again = run(engine, {name: name})[name]
        assert (again.cached, again.tokens) == (16, alone.tokens), "its own prefix is found"
        assert again.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_an_unknown_adapter_is_refused(plugin_host: Any, folder: Path) -> None:
    for plugins, known in (((), "none"), ((constant_adapters(ADAPTERS),), "small, large")):
        engine = Served(folder, plugin_host(*plugins)).engine
        with pytest.raises(RequestError, match=f"no adapter 'other'; there are: {known}"):
            engine.add(Request(id="a", prompt=PROMPT, adapter="other"))


def test_two_tables_with_adapters_are_refused(plugin_host: Any) -> None:
    host = plugin_host(constant_adapters({"a": 1.0}), _renamed(constant_adapters({"b": 1.0})))
    with pytest.raises(SettingsError, match="both have adapters to serve"):
        adapt(host, {}, torch.nn.ModuleDict(), torch.float32, torch.device("cpu"))


def _renamed(plugin: Any) -> Any:
    from dataclasses import replace
    from types import SimpleNamespace

    from maxserve.core.hookspecs import hookimpl

    declared = [replace(each, name="other") for each in plugin.maxserve_adapters()]
    return SimpleNamespace(maxserve_adapters=hookimpl(lambda: declared))


def test_the_model_says_which_adapters_it_has(plugin_host: Any, folder: Path) -> None:
    assert Served(folder, plugin_host(constant_adapters(ADAPTERS))).engine.info.adapters == ("small", "large")
    assert Served(folder, plugin_host()).engine.info.adapters == ()
