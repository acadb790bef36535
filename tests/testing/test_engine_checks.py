"""The checks of engines take what is right and find what is wrong; the engine is that of `max plugins new`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.engine import Engine
from maxserve.core.interfaces.request import Encoded
from maxserve.plugins.commands.new_plugin import write
from maxserve.testing.engine import EngineChecks


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Any]:
    """The module that the template makes."""
    folder = write("engine", "mean-rows-tested", tmp_path_factory.mktemp("new"))
    sys.path.insert(0, str(folder))
    yield import_module("mean_rows_tested")
    sys.path.remove(str(folder))
    del sys.modules["mean_rows_tested"]


def checks(written: Any, changes: dict[str, Any]) -> EngineChecks:
    """The checks of the engine with some methods of its class replaced."""
    changed = type("Changed", (written.MeanRowsTested,), changes)
    declared = Engine(name="changed", tasks=(written.TASK,), build=changed)
    architectures = list(written.maxserve_architectures())

    class Checks(EngineChecks):
        plugin = SimpleNamespace(
            maxserve_engines=hookimpl(lambda: [declared]), maxserve_architectures=hookimpl(lambda: architectures)
        )

        def write_model(self, folder: Path) -> None:
            config = {"architectures": ["MeanRowsTestedTable"], "vocab_size": 16, "max_position_embeddings": 32}
            (folder / "config.json").write_text(json.dumps(config))
            save_file({"table.weight": np.random.default_rng(0).random((16, 4), dtype=np.float32)}, folder / WEIGHTS)

    return Checks()


WEIGHTS = "model.safetensors"


def lose_a_text(self: Any) -> Sequence[Encoded]:
    (only,) = type(self).__mro__[1].step(self) or (None,)
    return [] if only is None else [Encoded(id=only.id, indices=only.indices[:1], data=only.data[:16], finish="stop")]


def never_end(self: Any) -> Sequence[Encoded]:
    return [Encoded(id=each.id, indices=each.indices, data=each.data) for each in type(self).__mro__[1].step(self)]


def add_the_others(self: Any) -> Sequence[Encoded]:
    """The vectors depend on how many wait."""
    noise = np.float32(len(self.waiting))
    return [
        Encoded(
            id=each.id, indices=each.indices, data=(np.frombuffer(each.data, "f4") + noise).tobytes(), finish="stop"
        )
        for each in type(self).__mro__[1].step(self)
    ]


def take_everything(self: Any, request: Any) -> None:
    self.waiting[request.id] = request


def fail_at_unknown(self: Any, ids: Iterable[str]) -> None:
    for id in ids:
        del self.waiting[id]


CORRECT = sorted(name for name in vars(EngineChecks) if name.startswith("test_"))


@pytest.mark.parametrize("check", CORRECT)
def test_the_template_passes(check: str, written: Any, plugin_host: Callable[..., Any], tmp_path: Path) -> None:
    right = checks(written, {})
    getattr(right, check)(right.engine.__wrapped__(right, plugin_host, tmp_path))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"step": lose_a_text}, "test_every_request_comes_to_its_end"),
        ({"step": never_end}, "test_every_request_comes_to_its_end"),
        ({"step": add_the_others}, "test_answers_do_not_depend_on_what_else_is_asked"),
        ({"add": take_everything}, "test_an_id_is_used_once_at_a_time"),
        ({"add": take_everything}, "test_what_it_does_not_do_is_refused"),
        ({"abort": lambda self, ids: None}, "test_what_is_aborted_gives_nothing_more"),
        ({"abort": fail_at_unknown}, "test_what_is_aborted_gives_nothing_more"),
        ({"pause": 0.0}, "test_it_is_idle_at_first"),
        ({"reset_prefix_cache": lambda self: -1}, "test_it_may_be_told_what_concerns_others"),
    ],
)
def test_wrong_engines_are_found(
    changes: dict[str, Any], check: str, written: Any, plugin_host: Callable[..., Any], tmp_path: Path
) -> None:
    wrong = checks(written, changes)
    engine = wrong.engine.__wrapped__(wrong, plugin_host, tmp_path)  # type: ignore[attr-defined]
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
        getattr(wrong, check)(engine)
