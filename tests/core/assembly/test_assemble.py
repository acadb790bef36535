from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.engine.loop import Engine
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.scheduler import Plan, Scheduler, SchedulerContext, View
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.cpu.library import library_for
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.tiny_configs import tiny_config

Build = Callable[..., Engine]


@pytest.fixture
def build(model_folder: Callable[..., Path]) -> Build:
    def build(*, model: dict[str, Any] | None = None, host: PluginHost | None = None, **options: Any) -> Engine:
        options.setdefault("model_path", str(model_folder(**(model or {}))))
        host = host or PluginHost.discover(PluginOptions(), strict=True)
        settings = resolve(options, environ={}, sections=host.plugin_sections())
        files = resolve_model(settings.model, host, progress=NullProgress())
        return build_engine(settings, host, files, progress=NullProgress())

    return build


def test_a_built_engine_is_idle_and_remembers_nothing_of_its_warm_up(build: Build) -> None:
    engine = build()
    stats = engine.stats()
    assert not engine.busy
    assert (stats.steps, stats.generated_tokens, stats.cache.cached, stats.cache.owned) == (0, 0, 0, 0)
    engine.check()


@pytest.mark.parametrize("method", [None, "ngram"])
def test_no_prompt_of_the_start_waits(build: Build, monkeypatch: pytest.MonkeyPatch, method: str | None) -> None:
    """Nor where steps are measured: how long prompts wait for others says nothing of the start."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    engine = build(scheduler="tts", ce_delay_ms=60_000, max_batch_size=4, speculative_method=method)
    assert slept == []
    assert engine.patient
    if method is not None:
        assert engine._drafting is not None
        assert engine._drafting._lengths is not None
        assert engine._drafting._lengths._cost.known
    engine.add(Request(id="a", prompt=(1, 2), params=SamplingParams(max_tokens=1)))
    engine.step()
    assert engine.pause is not None
    assert engine.pause > 50


def test_a_scheduler_of_turns_runs_prompts_whole_and_says_so(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    engine = build(
        scheduler="tts",
        max_batch_size=2,
        max_queue_size_tg=3,
        max_batch_input_tokens=8,
        enable_chunked_prefill=True,
        ce_delay_ms=1,
        min_batch_size_tg=1,
    )
    assert "--enable-chunked-prefill has no effect: scheduler 'tts' runs every prompt whole" in caplog.text
    for id in "abc":
        engine.add(Request(id=id, prompt=(1,) * 20, params=SamplingParams(max_tokens=3, ignore_eos=True)))
    first = engine.next_outputs()
    while not first:
        first = engine.next_outputs()
    assert [output.id for output in first] == ["a"], "twenty tokens at once, though eight are the aim"
    assert engine._limits.rows == 3
    finished = set()
    while engine.busy:
        finished |= {output.id for output in engine.next_outputs() if output.finish == "length"}
    assert finished == {"a", "b", "c"}
    engine.check()


@dataclass(frozen=True)
class Deadline:
    deadline: float = 0.0


class EarliestDeadlineFirst:
    """What a stranger's package may hold: one request at a time, the most urgent one first."""

    def __init__(self, context: SchedulerContext) -> None:
        pass

    def plan(self, view: View, plan: Plan) -> None:
        plan.add_each(view.running, 1)
        if not plan.size:
            first = min(view.waiting, key=lambda sequence: sequence.params(Deadline).deadline, default=None)
            if first is not None:
                plan.add(first, first.todo)


def test_a_schedulers_own_request_fields_reach_its_policy(build: Build, plugin_host: Callable[..., PluginHost]) -> None:
    scheduler = Scheduler(name="deadline", build=EarliestDeadlineFirst, params=Deadline)
    host = plugin_host(SimpleNamespace(maxserve_schedulers=hookimpl(lambda: [scheduler])))
    engine = build(host=host, scheduler="deadline")
    for id, deadline in (("late", 9.0), ("soon", 1.0), ("some day", 20.0)):
        params = SamplingParams(max_tokens=2, ignore_eos=True, fields={"scheduler deadline": {"deadline": deadline}})
        engine.add(Request(id=id, prompt=(1, 2, 3), params=params))
    ended: list[str] = []
    while engine.busy:
        ended += [output.id for output in engine.next_outputs() if output.finish]
    assert ended == ["soon", "late", "some day"]


def test_chunks_are_not_spoken_of_unasked(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    build(scheduler="tts")
    assert "chunked" not in caplog.text


def test_info_tells_what_is_served(build: Build) -> None:
    info = build(max_length=100, max_batch_size=3).info
    assert (info.architecture, info.max_length, info.max_batch_size) == ("LlamaForCausalLM", 100, 3)
    assert (info.dtype, info.device, info.eos_token_ids) == ("float32", "cpu", (0, 2))
    assert info.parameters > 50_000


@pytest.mark.parametrize(("format", "dtype"), [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_cache_is_kept_in_the_format_asked_for(build: Build, format: str | None, dtype: torch.dtype) -> None:
    engine = build(kv_cache_format=format) if format else build()
    assert engine._cache.layers[0].keys.dtype == dtype


@pytest.mark.compiler
@pytest.mark.parametrize(("name", "native"), [("LlamaForCausalLM", True), ("DeepseekV3ForCausalLM", False)])
def test_the_cache_is_narrow_where_its_attention_reads_it_so(
    build: Build, name: str, native: bool, tmp_path: Path
) -> None:
    """Attention that widens a narrow cache would copy all of it in each step."""
    config = tiny_config(name, architectures=[name])
    randomised(ArchitectureChecks.reference(config)).to(torch.bfloat16).save_pretrained(tmp_path)
    library = library_for(Context())
    rounds = library.ms_matrix_units() or library.ms_dot_units()

    def stored(**options: Any) -> torch.dtype:
        dtype: torch.dtype = build(model_path=str(tmp_path), **options)._cache.layers[0].keys.dtype
        return dtype

    assert stored() == (torch.bfloat16 if native and rounds else torch.float32)
    assert stored(native__precision="exact") == torch.float32
    assert stored(attention_backend="torch") == torch.float32
    assert stored(kv_cache_format="bfloat16") == torch.bfloat16


@pytest.mark.compiler
def test_weights_are_held_in_the_encoding_of_the_checkpoint_where_kernels_can(build: Build) -> None:
    assert build(model={"dtype": "bfloat16"}).info.dtype == "bfloat16"
    assert build(model={"dtype": "bfloat16"}, quantization_encoding="bfloat16").info.dtype == "bfloat16"


def test_without_kernels_16_bit_weights_are_float32_unless_asked_for(build: Build) -> None:
    plain = {"model": {"dtype": "bfloat16"}, "use_subgraphs": False}
    assert build(**plain).info.dtype == "float32"
    assert build(**plain, quantization_encoding="bfloat16").info.dtype == "bfloat16"


def test_the_smallest_length_is_warmed_up_too(build: Build) -> None:
    assert build(max_length=2).info.max_length == 2


def test_a_step_must_hold_the_longest_request(build: Build) -> None:
    with pytest.raises(SettingsError, match="--max-batch-total-tokens 100 is below the length of 512"):
        build(max_batch_total_tokens=100)


def test_a_model_that_gives_no_numbers_does_not_start(
    build: Build, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.norm.weight": torch.full((64,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(PluginError, match="failed in its warm-up step: the logits of the next token are not finite"):
        build(model_path=str(folder))
