"""Steps that several ranks share: what travels, what happens to errors, and texts that are those of one rank."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
import torch

from maxserve import LLM
from maxserve.adapters import rows_by_slot
from maxserve.core.assembly.ranks import validate_shared
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.errors import EngineError, ModelError, SettingsError
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.core.interfaces.runner import ModelOutput
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.cache import memory_plan
from maxserve.plugins.executors.steps import (
    Beside,
    LeadingRunner,
    SharedPlan,
    decode_plan,
    encode_adapter,
    encode_end,
    encode_plan,
    follow,
)
from maxserve.testing.architecture import randomised
from maxserve.testing.ranks import served_in_ranks
from maxserve.testing.served import Served, served_settings
from maxserve.testing.tiny_cache import TinyCache, make_step
from maxserve.testing.tiny_configs import model_class, tiny_config

PLAN = SharedPlan(
    max_batch_size=3,
    max_length=40,
    pages=7,
    page_size=16,
    page_bounds=(None, 2),
    soft_pages=None,
    host_pages=0,
    warnings=("careful",),
)


class Recorder:
    """A Runner and Followers that keep what they are given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[Sequence[bytes]] = []
        self.ran: list[StepInputs] = []
        self.rows: list[torch.Tensor] = []
        self.error = error

    def send(self, frames: Sequence[bytes]) -> None:
        self.sent.append(frames)

    def fail(self, error: Exception) -> NoReturn:
        raise SystemExit(str(error))

    def run(self, inputs: StepInputs) -> ModelOutput:
        if self.error is not None:
            raise self.error
        self.ran.append(inputs)
        return ModelOutput(logits=None, hidden=torch.zeros(len(inputs.input_ids), 2))

    def logits(self, hidden: torch.Tensor, slots: Any = ()) -> torch.Tensor:
        self.rows.append(hidden)
        self.slots = list(slots)
        return hidden


def equal(a: StepInputs, b: StepInputs) -> bool:
    names = ("input_ids", "positions", "slot_mapping", "logit_rows")
    arrays = ("query_start", "seq_lens", "prompt_lens", "block_tables")
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        and all(getattr(a, name).dtype == getattr(b, name).dtype for name in arrays)
        and len(a.groups) == len(b.groups)
        and all(equal(x, y) for x, y in zip(a.groups, b.groups, strict=True))
    )


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("parts", [[], [(0, range(5)), (2, range(1))]])
def test_followers_get_the_step_that_the_first_runs(groups: int, parts: Any) -> None:
    cache = TinyCache([CacheLayer(kv_heads=1, head_dim=4)])
    if parts:
        inputs = make_step(cache, parts).inputs
    else:
        nothing, none = torch.empty(0, dtype=torch.int64), np.empty(0, dtype=np.int64)
        inputs = StepInputs(
            input_ids=nothing,
            positions=nothing,
            slot_mapping=nothing,
            query_start=np.zeros(1, dtype=np.int64),
            seq_lens=none,
            prompt_lens=none,
            block_tables=np.empty((0, 0), dtype=np.int32),
            logit_rows=nothing,
        )
    inputs.groups = tuple(replace(inputs, slot_mapping=inputs.slot_mapping + i + 1) for i in range(groups))
    leader, follower = Recorder(), Recorder()
    LeadingRunner(leader, leader).run(inputs)
    LeadingRunner(leader, leader).logits(torch.arange(6.0).view(3, 2))
    messages = iter([*leader.sent, encode_end()])
    follow(follower, lambda: next(messages))
    assert equal(follower.ran[0], inputs)
    assert torch.equal(follower.rows[0], torch.arange(6.0).view(3, 2))


def test_followers_get_the_slots_of_rows_that_have_adapters() -> None:
    inputs = make_step(TinyCache([CacheLayer(kv_heads=1, head_dim=4)]), [(0, range(5)), (2, range(1))]).inputs
    inputs.adapter_rows = rows_by_slot(np.array([2, 2, 0, 1, 0, 1]), torch.device("cpu"))
    leader, follower = Recorder(), Recorder()
    LeadingRunner(leader, leader).run(inputs)
    LeadingRunner(leader, leader).logits(torch.zeros(2, 2), np.array([0, 3]))
    taken: list[tuple[int, bytes]] = []
    messages = iter([*leader.sent, encode_adapter(3, b"factors"), encode_end()])
    follow(follower, lambda: next(messages), Beside(take=lambda slot, data: taken.append((slot, data))))
    found, due = follower.ran[0].adapter_rows, inputs.adapter_rows
    assert found is not None
    assert due is not None
    assert torch.equal(found.adapter_slots, due.adapter_slots)
    assert torch.equal(found.order, due.order)
    assert np.array_equal(found.groups, due.groups)
    assert follower.ran[0].logit_adapter_rows is None
    assert follower.slots == [0, 3]
    assert taken == [(3, b"factors")]


def test_an_error_of_the_first_rank_ends_all() -> None:
    """The others are in the middle of the step, and would be a step behind for ever."""
    inputs = make_step(TinyCache([]), [(0, range(3))]).inputs
    leader = Recorder(ValueError("out of range"))
    with pytest.raises(SystemExit, match="out of range"):
        LeadingRunner(leader, leader).run(inputs)
    assert len(leader.sent) == 1


def test_a_plan_travels_whole() -> None:
    assert decode_plan(encode_plan(PLAN)) == PLAN


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> Any:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def outputs(served: Served, requests: Sequence[Request]) -> list[Any]:
    """Tokens, log-probabilities of the prompt, and how many tokens were found in the cache, one after another."""
    found: dict[str, list[Output]] = {request.id: [] for request in requests}
    for request in requests:
        served.engine.add(request)
        if request.id.startswith("alone"):
            while served.engine.busy:
                for output in served.engine.next_outputs():
                    found[output.id].append(output)
    while served.engine.busy:
        for output in served.engine.next_outputs():
            found[output.id].append(output)
    return [
        (
            [token for output in given for token in output.tokens],
            [entry.token for output in given for entry in output.prompt_logprobs],
            given[-1].error,
            max(output.cached for output in given),
        )
        for given in found.values()
    ]


def requests(tokens: int = 40) -> list[Request]:
    """Greedy and seeded ones of several lengths, one whose prompt is scored, and one whose prompt comes again."""
    greedy, drawn = {"temperature": {"temperature": 0.0}}, {"temperature": {"temperature": 1.0}}
    prompts = [tuple((7 * i + j * j) % 90 + 3 for j in range(count)) for i, count in enumerate((5, 37, 18, 60))]
    found = [
        Request(
            id=f"{i}", prompt=prompt, params=SamplingParams(max_tokens=tokens, ignore_eos=True, fields=fields, seed=i)
        )
        for i, (prompt, fields) in enumerate(zip(prompts, (greedy, greedy, drawn, drawn), strict=True))
    ]
    scored = SamplingParams(max_tokens=3, prompt_logprobs=1, fields=greedy)
    again = SamplingParams(max_tokens=8, ignore_eos=True, fields=greedy)
    return [
        *found,
        Request(id="alone scored", prompt=prompts[2], params=scored),
        Request(id="alone again", prompt=prompts[3], params=again),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enable_overlap_scheduler": True},
        {"max_num_steps": 3},
        {"kv_cache_format": "int8"},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_texts_are_those_of_one_rank(options: Any, model_folder: Callable[..., Path], host: Any) -> None:
    """In chunks, beside each other, and found in the cache."""
    folder = model_folder()
    due = outputs(Served(folder, host, **options), requests())
    found = served_in_ranks(folder, host, 2, lambda served: outputs(served, requests()), **options)
    assert found == due
    assert all(error is None for _, _, error, _ in due)
    assert due[-1][3] > 0, "the last prompt is found in the cache"


def written(name: str, folder: Path, **changes: Any) -> Path:
    """A checkpoint of a tiny model of transformers' class of that name."""
    config = tiny_config(name, architectures=[name], **changes)
    randomised(model_class(name)(config)).save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "Gemma3ForCausalLM"])
def test_layers_with_windows(architecture: str, tmp_path: Path, host: Any) -> None:
    """Also where groups of them have block tables of their own."""
    folder = written(architecture, tmp_path, sliding_window=16)
    due = outputs(Served(folder, host), requests())
    assert served_in_ranks(folder, host, 2, lambda served: outputs(served, requests())) == due


def test_where_pages_are_short(model_folder: Callable[..., Path], host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank plans for all: who loses pages loses them everywhere."""
    plan = memory_plan.plan_cache
    monkeypatch.setattr(memory_plan, "plan_cache", lambda context: replace(plan(context), pages=8))
    options = {"max_length": 112, "kvcache_ce_watermark": 1.0}

    def crowded(served: Served) -> Any:
        found = outputs(served, requests()[:4])
        served.engine.check()
        return found, served.engine.stats().preemptions

    due, _ = crowded(Served(model_folder(), host, **options))
    found, preemptions = served_in_ranks(model_folder(), host, 2, crowded, **options)
    assert found == due
    assert preemptions > 0


def test_copies_in_host_memory(model_folder: Callable[..., Path], host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has lost its pages is read back on all ranks, each of which has its own heads."""
    plan = memory_plan.plan_cache
    monkeypatch.setattr(memory_plan, "plan_cache", lambda context: replace(plan(context), pages=8, host_pages=64))
    options = {"max_length": 112, "enable_kvcache_swapping_to_host": True, "kvcache_ce_watermark": 1.0}

    def twice(served: Served) -> Any:
        found = [outputs(served, [replace(r, id=f"{r.id} {turn}") for r in requests()]) for turn in range(2)]
        served.engine.check()
        return found, served.engine.stats().cache.host_hits

    due, expected = twice(Served(model_folder(), host, **options))
    found, hits = served_in_ranks(model_folder(), host, 2, twice, **options)
    assert found == due
    assert hits == expected > 0


REFUSED: dict[str, Any] = {
    "layer_compiler": "native",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_ranks_cannot_share_yet_is_named(option: str, model_folder: Callable[..., Path], host: Any) -> None:
    settings, files = served_settings(model_folder(), host, devices="cpu:0,1", **{option: REFUSED[option]})
    with pytest.raises(SettingsError, match="--devices cpu:0,1"):
        validate_shared(settings, host, files)


def test_heads_that_ranks_cannot_share_are_named(model_folder: Callable[..., Path], host: Any) -> None:
    with pytest.raises(ModelError, match="the model has 4 attention heads, which 3 ranks cannot share equally"):
        served_in_ranks(model_folder(), host, 3, lambda served: None)


def test_a_model_is_shared_by_a_server_only(model_folder: Callable[..., Path], host: Any) -> None:
    with pytest.raises(SettingsError, match="--devices cpu:0,1: a model can be shared among several devices"):
        Served(model_folder(), host, devices="cpu:0,1")


def test_an_architecture_must_say_that_ranks_can_share_it(tmp_path: Path, host: Any) -> None:
    settings, files = served_settings(written("GPT2LMHeadModel", tmp_path), host, devices="cpu:0,1")
    with pytest.raises(SettingsError, match="does not say that ranks can share it"):
        validate_shared(settings, host, files)


# --- of a program -----------------------------------------------------------------------------------------------------


def test_a_program_shares_a_model_with_processes_of_its_own(model_folder: Callable[..., Path]) -> None:
    """Which end with the object, however many threads there were."""
    prompts = ["the quick brown fox", "a page"]
    options: Any = {"max_tokens": 24, "ignore_eos": True, "seed": 3, "temperature": 0.8}
    due = [each.text for each in LLM(str(model_folder()), devices="cpu", max_batch_size=4).generate(prompts, **options)]
    llm = LLM(str(model_folder()), devices="cpu:0,1", max_batch_size=4, speculative_method="ngram")
    children = [each for each in psutil.Process().children() if "runtime.worker" in " ".join(each.cmdline())]
    assert len(children) == 1
    assert [each.text for each in llm.generate(prompts, **options)] == due
    del llm
    gc.collect()
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_a_program_hears_of_a_rank_that_is_gone(model_folder: Callable[..., Path]) -> None:
    llm = LLM(str(model_folder()), devices="cpu:0,1", max_batch_size=4)
    (child,) = [each for each in psutil.Process().children() if "runtime.worker" in " ".join(each.cmdline())]
    child.kill()
    child.wait(5)
    with pytest.raises(EngineError, match="the processes that share the model are ended: rank 1 of the worker"):
        llm.generate(["the quick brown fox"], max_tokens=24, ignore_eos=True)


def test_what_a_program_cannot_share_is_named(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="the model has 4 attention heads, which 3 ranks cannot share equally"):
        LLM(str(model_folder()), devices="cpu:0,1,2")
    assert not [each for each in psutil.Process().children() if "runtime.worker" in " ".join(each.cmdline())]
