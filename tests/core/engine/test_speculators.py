"""A speculative method of a plugin: chosen by name, with layers of its own in the cache and outputs of the model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.errors import ModelError, PluginError, SettingsError
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.sampler import Rows, Sampler, SamplerContext
from maxserve.core.interfaces.speculator import (
    DraftedStep,
    DraftNeeds,
    DraftStep,
    NeedsContext,
    Speculator,
    SpeculatorContext,
)
from maxserve.plugins.speculation.lengths import AdaptiveLengths, Record
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Answer, Served
from maxserve.testing.speculator import RepeatingDrafter, repeating_speculator
from maxserve.testing.tiny_configs import tiny_config

WIDTH = 16
PROMPTS = [[5, 6, 7] * 9, [9, 8], [5, 6, 7] * 9 + [11], list(range(40))]


def folder_of(family: str, made: Path, **changes: Any) -> Path:
    config = tiny_config(family, architectures=[family], **changes)
    randomised(ArchitectureChecks.reference(config)).save_pretrained(made)  # type: ignore[operator]
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("LlamaForCausalLM", tmp_path_factory.mktemp("llama"))


class AttendingDrafter(RepeatingDrafter):
    """Attends over embeddings of all tokens, which it keeps in a cache layer of its own, and checks what it sees.

    `outputs` are the last outputs of the model's layers, with its own last hidden states.
    """

    def __init__(self, context: SpeculatorContext) -> None:
        super().__init__(context)
        self._attention, self._layer = context.attention, context.first_layer
        self._model: Any = context.model
        generator = torch.Generator().manual_seed(0)
        self._embedding = torch.randn(context.vocab_size, 1, WIDTH, generator=generator)
        self.compared = 0
        self.outputs: list[torch.Tensor] = []

    def propose(self, step: DraftStep) -> list[list[int]]:
        x = self._embedding[step.inputs.input_ids]
        seen = self._attention.attend(self._layer, x, x, x, step.inputs, None, None)
        for i in range(len(step.sequences)):
            last = int(step.inputs.query_start[i] + step.kept[i]) - 1
            written = int(step.inputs.positions[last]) + 1
            keys = self._embedding[torch.from_numpy(step.sequences[i].tokens[:written].copy())][:, 0]
            expected = (keys @ keys[-1] * WIDTH**-0.5).softmax(-1) @ keys
            torch.testing.assert_close(seen[last, 0], expected, rtol=1e-3, atol=1e-3)
            self.compared += 1
        (output,) = step.output.aux_hidden
        torch.testing.assert_close(self._model.model.norm(output), step.output.hidden)
        return super().propose(step)


def attending(made: list[AttendingDrafter], **needs: Any) -> SimpleNamespace:
    def build(context: SpeculatorContext) -> AttendingDrafter:
        made.append(AttendingDrafter(context))
        return made[-1]

    def needed(context: NeedsContext) -> DraftNeeds:
        last = len(context.spec.cache_layers) - 1
        layer = CacheLayer(kv_heads=1, head_dim=WIDTH)
        return DraftNeeds(**{"layers": (layer,), "aux_layers": (last,), "weight_bytes": 1 << 20, **needs})

    declared = Speculator(name="attending", build=build, needs=needed)
    return SimpleNamespace(maxserve_speculators=hookimpl(lambda: [declared]))


def same(found: list[Answer], expected: list[Answer]) -> None:
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_the_one_that_is_named_serves_and_changes_no_text(plugin_host: Any, folder: Path) -> None:
    expected = Served(folder, plugin_host()).answers(PROMPTS, 30)
    served = Served(folder, plugin_host(repeating_speculator()), speculative_method="repeating")
    same(served.answers(PROMPTS, 30), expected)
    stats = served.engine.stats()
    assert stats.draft_tokens > 0
    assert served.engine.draft_tokens == 5
    served.engine.check()


def test_without_a_name_none_serves(plugin_host: Any, folder: Path) -> None:
    served = Served(folder, plugin_host(repeating_speculator()))
    served.answers(PROMPTS[:1], 4)
    assert (served.engine.draft_tokens, served.engine.stats().draft_tokens) == (0, 0)


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Gemma3ForCausalLM"])
def test_its_layers_are_kept_with_those_of_the_model(plugin_host: Any, tmp_path: Path, family: str) -> None:
    """Through chunks of prompts, cached prefixes, rejected drafts and windows: it sees all tokens that stand."""
    made: list[AttendingDrafter] = []
    folder = folder_of(family, tmp_path)
    options = {"num_speculative_tokens": 4, "max_length": 200}
    expected = Served(folder, plugin_host(), max_length=200).answers(PROMPTS, 40)
    served = Served(folder, plugin_host(attending(made)), speculative_method="attending", **options)
    same(served.answers(PROMPTS, 40), expected)
    again = served.answers(PROMPTS, 40)
    same(again, expected)
    assert max(answer.cached for answer in again) > 0
    assert made[-1].compared > 50
    served.engine.check()


def test_what_its_weights_take_is_planned(plugin_host: Any, folder: Path) -> None:
    plugin = attending([], weight_bytes=1 << 60)
    with pytest.raises(ModelError, match="does not fit"):
        Served(folder, plugin_host(plugin), speculative_method="attending")


def test_layers_that_the_model_does_not_have_end_the_start(plugin_host: Any, folder: Path) -> None:
    with pytest.raises(PluginError, match="kept outputs of 0 layers"):
        Served(folder, plugin_host(attending([], aux_layers=(99,))), speculative_method="attending")


def test_a_drafter_that_fails_in_the_warm_up_ends_the_start(plugin_host: Any, folder: Path) -> None:
    def propose(step: DraftStep) -> list[list[int]]:
        raise ValueError("no weights")

    declared = Speculator(name="broken", build=lambda context: SimpleNamespace(propose=propose))
    host = plugin_host(SimpleNamespace(maxserve_speculators=hookimpl(lambda: [declared])))
    with pytest.raises(PluginError, match=r"broken.*no weights"):
        Served(folder, host, speculative_method="broken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speculative_method": "repeating", "enable_overlap_scheduler": True}, "--enable-overlap-scheduler"),
        ({"speculative_method": "repeating", "max_num_steps": 4}, "--max-num-steps"),
    ],
)
def test_options_that_rule_each_other_out(
    plugin_host: Any, folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Served(folder, plugin_host(repeating_speculator()), **options)


def test_an_unknown_name_says_which_there_are(plugin_host: Any, folder: Path) -> None:
    with pytest.raises(PluginError, match=r"'medusa'.*repeating"):
        Served(folder, plugin_host(repeating_speculator()), speculative_method="medusa")


@pytest.mark.parametrize("adaptive", [True, False])
def test_what_rows_cost_is_measured_at_the_start(plugin_host: Any, folder: Path, adaptive: bool) -> None:
    host = plugin_host(repeating_speculator())
    engine = Served(folder, host, speculative_method="repeating", adaptive_speculation=adaptive).engine
    assert engine._drafting is not None
    assert engine._drafting.adapts == adaptive
    if adaptive:
        lengths = engine._drafting._lengths
        assert isinstance(lengths, AdaptiveLengths)
        assert lengths._cost.known
        assert lengths._record.of_all.tolist() == Record().of_all.tolist(), "drafts of the warm-up say nothing"
    assert engine.stats().steps == 0
    assert engine.stats().cache.cached == 0


class TwoEach:
    """Two drafts for each sequence, whatever they cost; notes what it hears."""

    def __init__(self, context: SpeculatorContext) -> None:
        self.most = context.draft_tokens
        self.steps: list[DraftedStep] = []
        self.asked: list[tuple[int, int]] = []

    @contextmanager
    def measuring(self) -> Iterator[None]:
        yield

    def choose(self, step: DraftedStep) -> NDArray[np.int64]:
        self.steps.append(step)
        return np.full(len(step.slots), 2)

    def learn_drafter(
        self,
        step: DraftedStep,
        slots: NDArray[np.int64],
        wanted: NDArray[np.int64],
        proposed: NDArray[np.int64],
        seconds: float,
    ) -> None:
        assert step is self.steps[-1]
        assert seconds > 0
        self.asked.append((int(wanted.max()), int(proposed.max())))


def test_a_plugin_decides_how_many_drafts_there_are(plugin_host: Any, folder: Path) -> None:
    host = plugin_host(with_lengths(TwoEach))
    served = Served(folder, host, speculative_method="repeating", adaptive_speculation=True, num_speculative_tokens=5)
    served.answers(PROMPTS, 20)
    assert served.engine._drafting is not None
    lengths = served.engine._drafting._lengths
    assert isinstance(lengths, TwoEach)
    assert lengths.most == 5
    assert {wanted for wanted, _ in lengths.asked} == {1, 2}, "it does not follow: 0 says nothing of its price"
    tried = [step.tried for step in lengths.steps if step.tried is not None]
    assert max(int(drafts.max()) for drafts in tried) == 2
    assert any(step.prompts for step in lengths.steps)


def test_lengths_that_cannot_decide_end_the_start(plugin_host: Any, folder: Path) -> None:
    host = plugin_host(with_lengths(lambda context: SimpleNamespace(measuring=list, learn_drafter=print)))
    with pytest.raises(PluginError, match=r"repeating.*without the method choose"):
        Served(folder, host, speculative_method="repeating", adaptive_speculation=True)


class Raising(TwoEach):
    def choose(self, step: DraftedStep) -> NDArray[np.int64]:
        raise ValueError("it does not know")


class ForAnother(TwoEach):
    def choose(self, step: DraftedStep) -> NDArray[np.int64]:
        return np.full(len(step.slots) + 1, 2)


class Forgetful(TwoEach):
    def learn_drafter(self, *drafted: Any, **more: Any) -> None:
        raise ValueError("it learns nothing")


class Excessive(TwoEach):
    def choose(self, step: DraftedStep) -> NDArray[np.int64]:
        return np.where(np.arange(len(super().choose(step))) % 2, 100, -7)


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [
        (Raising, "failed to choose lengths: ValueError: it does not know"),
        (ForAnother, "failed to choose lengths: ValueError: lengths are"),
        (Forgetful, "failed to learn lengths: ValueError: it learns nothing"),
        (Excessive, None),
    ],
)
def test_lengths_that_are_wrong_cost_no_request_anything(
    plugin_host: Any, folder: Path, lengths: Any, complaint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [answer.tokens for answer in Served(folder, plugin_host()).answers(PROMPTS, 20)]
    host = plugin_host(with_lengths(lambda context: TwoEach(context)))
    served = Served(folder, host, speculative_method="repeating", adaptive_speculation=True, num_speculative_tokens=5)
    drafting: Any = served.engine._drafting
    drafting._lengths = lengths(SimpleNamespace(draft_tokens=5))
    assert [answer.tokens for answer in served.answers(PROMPTS, 20)] == expected
    assert all(wanted <= 5 for wanted, _ in drafting._lengths.asked)
    assert lengths is not Excessive or served.engine.stats().draft_tokens > 0
    complaints = [record.getMessage() for record in caplog.records if "logged once" in record.getMessage()]
    assert len(complaints) == (complaint is not None)
    assert complaint is None or complaint in complaints[0]
    served.engine.check()


def with_lengths(lengths: Any) -> SimpleNamespace:
    """The repeating method with draft lengths of its own."""
    declared = Speculator(name="repeating", build=RepeatingDrafter, lengths=lengths)
    return SimpleNamespace(maxserve_speculators=hookimpl(lambda: [declared]))


@dataclass(frozen=True)
class Once:
    """Request field of a sampler that remembers."""

    once: bool = False


class RememberingTransform:
    """Counts the rows that it was asked of, by request."""

    rows: ClassVar[Counter[str]] = Counter()

    def __init__(self, context: SamplerContext) -> None:
        self.rows.clear()

    def prepare(self, rows: Rows) -> list[str]:
        return [rows.owners[row].id for row in rows.asking(Once)]

    def apply(self, logits: Any, state: list[str]) -> Any:
        self.rows.update(state)
        return logits


def remembering(**declared: Any) -> SimpleNamespace:
    sampler = Sampler(name="once", build=RememberingTransform, with_drafts=False, **declared)
    return SimpleNamespace(maxserve_samplers=hookimpl(lambda: [sampler]))


def test_requests_with_a_sampler_that_goes_with_no_drafts_have_none(plugin_host: Any, folder: Path) -> None:
    host = plugin_host(repeating_speculator(), remembering(params=Once))
    engine = Served(folder, host, speculative_method="repeating", adaptive_speculation=False).engine
    for name, fields in (("with", {"once": {"once": True}}), ("without", {})):
        params = SamplingParams(max_tokens=12, ignore_eos=True, fields=fields)
        engine.add(Request(id=name, prompt=(5, 6, 7), params=params))
    drafts: Counter[str] = Counter()
    while engine.busy:
        for output in engine.next_outputs():
            assert output.error is None
            drafts[output.id] += output.accepted + output.rejected
    assert drafts["with"] == 0
    assert drafts["without"] > 0
    assert RememberingTransform.rows["with"] == 12, "once for each token"


def test_a_sampler_of_all_requests_that_goes_with_no_drafts_ends_the_start(plugin_host: Any, folder: Path) -> None:
    host = plugin_host(repeating_speculator(), remembering())
    with pytest.raises(SettingsError, match=r"--speculative-method: .*once.* works on every request"):
        Served(folder, host, speculative_method="repeating")
    Served(folder, host)
