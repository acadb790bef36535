"""Checks of engines, on a model that the test writes.

class TestAcme(EngineChecks):
    plugin = acme

    def write_model(self, folder):
        (folder / "config.json").write_text(...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from maxserve.core.config import resolve
from maxserve.core.interfaces.engine import ModelInfo, ServedEngine
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import Encoded, EncodeRequest, Output, Request
from maxserve.core.loading.model_loader import build_served
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.protocol import Host

__all__ = ["EngineChecks"]

MOST_STEPS = 10_000


class EngineChecks:
    """Subclass it, give the `plugin`, a module with the engine and an architecture of its task, and `write_model`.

    `requests` are what the engine is asked, each of which it must answer, and `foreign` is one that it does not do.
    `options` are those of `max serve`, by Python name.
    """

    plugin: ClassVar[Any] = None
    options: ClassVar[dict[str, Any]] = {}
    requests: ClassVar[Sequence[Request | EncodeRequest]] = (
        EncodeRequest(id="a", texts=((5, 6, 7), (8, 9))),
        EncodeRequest(id="b", texts=((10,),)),
        EncodeRequest(id="c", texts=((3, 4, 5, 6, 7, 8), (9,), (3, 4))),
    )
    foreign: ClassVar[Request | EncodeRequest] = Request(id="foreign", prompt=(5, 6, 7))

    def write_model(self, folder: Path) -> None:
        """Writes config.json and whatever else the engine reads."""
        raise NotImplementedError(f"{type(self).__name__} has no write_model(folder)")

    @pytest.fixture
    def engine(self, plugin_host: Callable[..., Host], tmp_path: Path) -> ServedEngine:
        """The engine of the model, ready."""
        folder, host = tmp_path / "model", plugin_host(*() if self.plugin is None else (self.plugin,))
        folder.mkdir()
        self.write_model(folder)
        settings = resolve({"model_path": str(folder), "devices": "cpu", **self.options}, environ={})
        files = resolve_model(settings.model, host, progress=NullProgress())
        return build_served(settings, host, files, NullProgress())

    def run(self, engine: ServedEngine) -> list[Output | Encoded]:
        """Everything that steps give until there is nothing to do."""
        outputs: list[Output | Encoded] = []
        for _ in range(MOST_STEPS):
            if not engine.busy:
                return outputs
            outputs += engine.step()
        raise AssertionError(f"the engine is still busy after {MOST_STEPS} steps")

    def test_it_is_idle_at_first(self, engine: ServedEngine) -> None:
        assert isinstance(engine.info, ModelInfo)
        assert not engine.busy
        assert engine.pause is None, "an idle engine waits for messages"
        assert list(engine.step()) == []

    def test_every_request_comes_to_its_end(self, engine: ServedEngine) -> None:
        for request in self.requests:
            engine.add(request)
        assert engine.busy
        outputs = self.run(engine)
        for request in self.requests:
            mine = [each for each in outputs if each.id == request.id]
            assert [each.finish is not None for each in mine] == [False] * (len(mine) - 1) + [True], (
                f"the outputs of {request.id!r} end with one that says why"
            )
            assert mine[-1].finish != "error", mine[-1].error
            self.check(request, mine)
        assert {each.id for each in outputs} == {each.id for each in self.requests}

    def check(self, request: Request | EncodeRequest, outputs: Sequence[Output | Encoded]) -> None:
        """Every text is answered once, with numbers of four bytes; may say more of the answer."""
        if isinstance(request, EncodeRequest):
            answered = [number for each in outputs if isinstance(each, Encoded) for number in each.indices]
            assert sorted(answered) == list(range(len(request.texts))), f"texts of {request.id!r} that were answered"
            assert not any(len(each.data) % 4 for each in outputs if isinstance(each, Encoded))

    def test_answers_do_not_depend_on_what_else_is_asked(self, engine: ServedEngine) -> None:
        for request in self.requests:
            engine.add(request)
        mixed = self.contents(self.run(engine))
        for request in self.requests:
            engine.add(request)
            assert self.contents(self.run(engine)) == {request.id: mixed[request.id]}

    @staticmethod
    def contents(outputs: Sequence[Output | Encoded]) -> dict[str, list[Any]]:
        """What each request was given, however it was cut into outputs."""
        found: dict[str, list[Any]] = {}
        for each in outputs:
            own = found.setdefault(each.id, [])
            if isinstance(each, Output):
                own += each.tokens
            elif each.indices:
                size = len(each.data) // len(each.indices)
                cut = (
                    [each.data]
                    if each.rows
                    else [each.data[i * size : (i + 1) * size] for i in range(len(each.indices))]
                )
                own += [each.indices, *cut] if each.rows else zip(each.indices, cut, strict=True)
        return {id: sorted(own) if own and isinstance(own[0], tuple) else own for id, own in found.items()}

    def test_what_is_aborted_gives_nothing_more(self, engine: ServedEngine) -> None:
        for request in self.requests:
            engine.add(request)
        gone = self.requests[0].id
        engine.abort([gone, "no such request"])
        assert gone not in {each.id for each in self.run(engine)}

    def test_an_id_is_used_once_at_a_time(self, engine: ServedEngine) -> None:
        engine.add(self.requests[0])
        with pytest.raises(RequestError):
            engine.add(self.requests[0])
        self.run(engine)
        engine.add(self.requests[0])
        assert self.run(engine)

    def test_what_it_does_not_do_is_refused(self, engine: ServedEngine) -> None:
        with pytest.raises(RequestError):
            engine.add(self.foreign)
        assert not engine.busy

    def test_counters_rise(self, engine: ServedEngine) -> None:
        before = engine.stats()
        assert isinstance(before, StepStats)
        for request in self.requests:
            engine.add(request)
        self.run(engine)
        after = engine.stats()
        assert after.steps > before.steps
        assert (after.running, after.waiting) == (0, 0)

    def test_it_may_be_told_what_concerns_others(self, engine: ServedEngine) -> None:
        """Grammars and prefixes are those of engines that generate."""
        engine.serve_grammars(lambda: None)
        assert engine.reset_prefix_cache() >= 0
        engine.close()
