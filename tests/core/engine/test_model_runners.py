"""The engine runs the model through whichever runner it was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.engine.loop import Engine
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.runner import ModelRunner, RunnerContext
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.plugins.runners.eager import EagerRunner
from maxserve.testing.runner import ReplayRunner


def answers(run: Any, engine: Engine) -> dict[str, list[int]]:
    """Greedy and sampled texts of prompts that are computed in chunks."""
    for index, temperature in enumerate((0.0, 1.0, 0.7)):
        fields = {"temperature": {"temperature": temperature}}
        params = SamplingParams(max_tokens=12, ignore_eos=True, seed=index, fields=fields)
        prompt = tuple((7 * index + 3 * i) % 200 for i in range(80 * index + 5))
        engine.add(Request(id=str(index), prompt=prompt, params=params))
    return {id: [token for output in outputs for token in output.tokens] for id, outputs in run(engine).items()}


@pytest.mark.parametrize("overlap", [False, True])
def test_a_runner_that_replays_gives_equal_texts(make_engine: Any, run: Any, overlap: bool) -> None:
    expected = answers(run, make_engine(rows=2))
    recording = ReplayRunner(make_engine(rows=2)._parts.runner)
    for engine in (make_engine(rows=2, overlap=overlap) for _ in range(2)):
        recording.inner = engine._parts.runner
        seen, recording.replayed = len(recording.recorded), 0
        through = Engine(replace(engine._parts, runner=recording))
        assert answers(run, through) == expected
        through.check()
    assert len(recording.recorded) == seen
    assert recording.replayed >= seen


class TestChoice:
    @pytest.fixture
    def build(self, model_folder: Callable[..., Path], plugin_host: Any) -> Callable[..., Engine]:
        def replaying(context: RunnerContext) -> ReplayRunner:
            return ReplayRunner(EagerRunner(context))

        def build(**options: Any) -> Engine:
            declared = ModelRunner(name="replay", build=replaying, priority=options.pop("priority", 10))
            host = plugin_host(SimpleNamespace(maxserve_model_runners=hookimpl(lambda: [declared])))
            settings = resolve({"model_path": str(model_folder()), "max_length": 64, **options}, environ={})
            files = resolve_model(settings.model, host, progress=NullProgress())
            return build_engine(settings, host, files, progress=NullProgress())

        return build

    def test_the_one_of_highest_priority_serves(self, build: Callable[..., Engine]) -> None:
        assert isinstance(build()._parts.runner, ReplayRunner)
        assert isinstance(build(priority=-10)._parts.runner, EagerRunner)

    def test_the_one_that_is_named_serves(self, build: Callable[..., Engine]) -> None:
        assert isinstance(build(model_runner="eager")._parts.runner, EagerRunner)
        assert isinstance(build(model_runner="replay", priority=-10)._parts.runner, ReplayRunner)

    def test_one_for_another_device_is_refused(self, model_folder: Any, plugin_host: Any) -> None:
        declared = ModelRunner(name="far", build=EagerRunner, devices=("cuda",))
        host = plugin_host(SimpleNamespace(maxserve_model_runners=hookimpl(lambda: [declared])))
        settings = resolve({"model_path": str(model_folder()), "max_length": 64, "model_runner": "far"}, environ={})
        files = resolve_model(settings.model, host, progress=NullProgress())
        with pytest.raises(SettingsError, match="--model-runner far"):
            build_engine(settings, host, files, progress=NullProgress())
