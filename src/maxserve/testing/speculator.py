"""Checks of speculative methods; and drafters that need no weights.

class TestAcme(SpeculatorChecks):
    speculator = "acme"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.speculator import DraftSequence, DraftStep, Speculator, SpeculatorContext
from maxserve.core.registry.protocol import Host
from maxserve.testing.resolve import declaring, resolve

__all__ = ["RepeatingDrafter", "ScriptedDrafter", "SpeculatorChecks", "few_pages", "repeating_speculator"]

MAX_LENGTH = 192  # of a text in the checks


class RepeatingDrafter:
    """A Drafter. Proposes each sequence's last tokens once more, as many as it may."""

    def __init__(self, context: SpeculatorContext) -> None:
        self._most = context.draft_tokens

    def propose(self, step: DraftStep) -> list[list[int]]:
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [sequence.tokens[-self._most :][:wanted].tolist() if wanted else [] for sequence, wanted in pairs]


@dataclass(slots=True)
class ScriptedDrafter:
    """A Drafter. Proposes what a function says of a sequence, and keeps the steps that it saw."""

    drafts: Callable[[DraftSequence, int], Sequence[int]]
    seen: list[DraftStep] = field(default_factory=list)

    def propose(self, step: DraftStep) -> list[Sequence[int]]:
        self.seen.append(step)
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self.drafts(sequence, wanted) for sequence, wanted in pairs]


def repeating_speculator(name: str = "repeating") -> SimpleNamespace:
    """A plugin with a speculative method of that name."""
    declared = Speculator(name=name, build=RepeatingDrafter, summary="the last tokens once more")
    return SimpleNamespace(maxserve_speculators=hookimpl(lambda: [declared]))


def few_pages(monkeypatch: pytest.MonkeyPatch, pages: int = MAX_LENGTH // 16) -> None:
    """Engines that are made from now on have so many pages, by default those of one text of the greatest length."""
    from maxserve.plugins.cache.memory_plan import MemoryPlan, plan_memory

    def plan(*given: Any, **options: Any) -> MemoryPlan:
        return replace(plan_memory(*given, **options), pages=pages)

    monkeypatch.setattr("maxserve.plugins.cache.memory_plan.plan_memory", plan)


class SpeculatorCases:
    """What checks of a speculative method run: a registered `speculator`, or the `component` itself, on a target.

    The method serves a small model with random weights, which the checks write unless `write_model` says otherwise;
    `options` are those of `max serve`, by Python name. Texts must be those without drafts, whatever is proposed, and
    nothing may go wrong on the way.
    """

    speculator: ClassVar[str] = ""
    component: ClassVar[Speculator | None] = None
    options: ClassVar[dict[str, Any]] = {}
    prompts: ClassVar[Sequence[Sequence[int]]] = ([5, 6, 7] * 9, [9, 8], [5, 6, 7] * 9 + [11], list(range(3, 40)))

    def options_for(self, folder: Path) -> dict[str, Any]:
        """The options, where they name something that `write_model` wrote into that folder."""
        return self.options

    def write_model(self, folder: Path) -> None:
        """Writes config.json and weights of the target, and what the speculator needs beside them."""
        from maxserve.testing.architecture import ArchitectureChecks, randomised
        from maxserve.testing.tiny_configs import tiny_config

        config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"])
        randomised(ArchitectureChecks.reference(config)).save_pretrained(folder)  # type: ignore[operator]

    @pytest.fixture
    def served(self, plugin_host: Callable[..., Host], tmp_path: Path) -> Callable[..., Any]:
        """An engine, with the method or without."""
        from maxserve.testing.served import Served

        folder = tmp_path / "target"
        folder.mkdir()
        self.write_model(folder)

        def make(*, drafting: bool, **options: Any) -> Any:
            host = declaring(plugin_host, self.component)
            name = resolve(Speculator, self.speculator, self.component).name
            chosen = {"speculative_method": name} if drafting else {}
            own = self.options_for(folder) if drafting else {}
            return Served(folder, host, max_length=MAX_LENGTH, **{**own, **chosen, **options}).engine

        return make

    def texts(self, engine: Any, requests: Sequence[Request]) -> dict[str, list[int]]:
        """What the requests are answered, all running at once; pages are recounted after each step."""
        for request in requests:
            engine.add(request)
        found: dict[str, list[int]] = {request.id: [] for request in requests}
        while engine.busy:
            for output in engine.next_outputs():
                assert output.error is None, output.error
                found[output.id] += output.tokens
            engine.check()
        return found

    def requests(self) -> list[Request]:
        """Greedy ones, and some that are drawn with a seed."""
        made = []
        for index, prompt in enumerate(self.prompts):
            for temperature in (0.0, 0.9):
                fields = {"temperature": {"temperature": temperature}}
                params = SamplingParams(max_tokens=90, ignore_eos=True, seed=index, fields=fields)
                made.append(Request(id=f"{index} at {temperature}", prompt=tuple(prompt), params=params))
        return made


class SpeculatorChecks(SpeculatorCases):
    """Subclass it and name a registered `speculator`, or give the `component` itself."""

    def test_texts_are_those_without_drafts_where_pages_are_few(
        self, served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Sequences lose their pages to others, and what the method keeps in them, and are computed anew."""
        requests = [replace(r, params=replace(r.params, max_tokens=90)) for r in self.requests()]
        expected = self.texts(served(drafting=False), requests)
        few_pages(monkeypatch)
        engine = served(drafting=True)
        assert self.texts(engine, requests) == expected
        assert engine.stats().preemptions > 0

    def test_requests_without_a_seed_have_drafts_too(
        self, served: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not resolve(Speculator, self.speculator, self.component).draws:
            monkeypatch.setattr("maxserve.core.engine.drafting.DraftDraw.__call__", _not_drawn)
        engine = served(drafting=True)
        hot = {"temperature": {"temperature": 1.2}}
        requests = [replace(r, params=replace(r.params, seed=None, fields=hot)) for r in self.requests()]
        texts = self.texts(engine, requests)
        assert {len(texts[request.id]) for request in requests} == {requests[0].params.max_tokens}
        assert [record.getMessage() for record in caplog.records if "speculator" in record.getMessage()] == []

    @pytest.mark.parametrize("draft_tokens", [1, 4])
    def test_texts_are_those_without_drafts(self, served: Callable[..., Any], draft_tokens: int) -> None:
        expected = self.texts(served(drafting=False), self.requests())
        engine = served(drafting=True, num_speculative_tokens=draft_tokens)
        assert self.texts(engine, self.requests()) == expected
        assert self.texts(engine, self.requests()) == expected, "with cached prefixes"

    def test_it_proposes_tokens(self, served: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
        engine = served(drafting=True)
        self.texts(engine, self.requests())
        assert engine.stats().draft_tokens > 0
        assert [record.getMessage() for record in caplog.records if "speculator" in record.getMessage()] == []


def _not_drawn(*_: Any) -> Any:
    raise AssertionError("the speculator drew a draft, for which no memory is planned: it declares draws=False")
