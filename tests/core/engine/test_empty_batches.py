"""`--execute-empty-batches`: the model runs on empty batches, where its architecture says it can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.architectures import FUSED
from maxserve.architectures.llama import Model
from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.engine.loop import Engine
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.step_context import StepContext
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model


class Counting(Model):
    """A Llama that notes how many tokens each of its steps had."""

    def forward(self, step: StepContext) -> Any:
        self.__dict__.setdefault("seen", []).append(len(step.inputs.input_ids))
        return super().forward(step)


def architecture(**fields: Any) -> Architecture:
    return replace(Architecture(name="CountingForCausalLM", build=Counting, weights=FUSED), **fields)


@pytest.fixture
def build(model_folder: Callable[..., Path], plugin_host: Callable[..., Any], tmp_path: Path) -> Callable[..., Engine]:
    def build(*, declared: Architecture, **options: Any) -> Engine:
        folder = Path(shutil.copytree(model_folder(), tmp_path / "model"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [declared.name]}))
        host = plugin_host(SimpleNamespace(maxserve_architectures=hookimpl(lambda: [declared])))
        settings = resolve({"model_path": str(folder), "max_length": 64, **options}, environ={})
        files = resolve_model(settings.model, host, progress=NullProgress())
        return build_engine(settings, host, files, progress=NullProgress())

    return build


def steps(engine: Engine) -> list[int]:
    found: list[int] = engine._parts.runner._model.__dict__["seen"]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("subgraphs", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_an_idle_engine_runs_steps_of_nobody(build: Callable[..., Engine], subgraphs: bool, overlap: bool) -> None:
    engine = build(
        declared=architecture(supports_empty_batches=True),
        execute_empty_batches=True,
        use_subgraphs=subgraphs,
        enable_overlap_scheduler=overlap,
    )
    assert 0 in steps(engine)  # tried before anybody is served
    steps(engine).clear()
    assert engine.step() == engine.step() == []
    assert steps(engine) == [0, 0]
    engine.add(Request(id="a", prompt=(1, 2, 3), params=SamplingParams(max_tokens=4, ignore_eos=True)))
    tokens: list[int] = []
    while engine.busy:
        for output in engine.step():
            assert output.error is None
            tokens += output.tokens
    assert len(tokens) == 4
    assert max(steps(engine)) == 3
    assert engine.step() == []
    engine.check()


def test_without_the_option_nobody_is_nothing(build: Callable[..., Engine]) -> None:
    engine = build(declared=architecture(supports_empty_batches=True))
    steps(engine).clear()
    assert engine.step() == []
    assert steps(engine) == []


def test_an_architecture_that_cannot_is_named(build: Callable[..., Engine]) -> None:
    with pytest.raises(SettingsError, match="--execute-empty-batches: architecture 'CountingForCausalLM'"):
        build(declared=architecture(), execute_empty_batches=True)
