"""Two methods, one after the other: who is asked for what, and that caches of both stay whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maxserve import LLM
from maxserve.core.hookspecs import hookimpl
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import MaxserveError, SettingsError
from maxserve.interfaces.request import Request, SamplingParams
from maxserve.interfaces.runner import ModelOutput
from maxserve.interfaces.speculator import DraftNeeds, DraftStep, NeedsContext, Speculator, SpeculatorContext
from maxserve.plugins.speculation.cascade import CascadeDrafter, Member
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import GREEDY, Served
from maxserve.testing.speculator import SpeculatorChecks, few_pages
from maxserve.testing.tiny_configs import tiny_config

WIDTH = 16


class TestLookupBeforeTheTargetItself(SpeculatorChecks):
    speculator = "cascade"
    options: ClassVar[dict[str, Any]] = {"cascade__then": "standalone"}

    def options_for(self, folder: Path) -> dict[str, Any]:
        return {**self.options, "draft_model_path": str(folder)}


class TestSuffixBeforeNgram(SpeculatorChecks):
    speculator = "cascade"
    options: ClassVar[dict[str, Any]] = {
        "cascade__first": "suffix",
        "cascade__then": "ngram",
        "suffix__min_token_prob": 0.9,
        "ngram__prompt_lookup_min": 1,
    }


class Scripted:
    """A Drafter that proposes what it is told to, and keeps what was wanted of it."""

    def __init__(self, *drafts: Sequence[int] | Exception) -> None:
        self.drafts = drafts
        self.wanted: list[list[int]] = []
        self.outputs: list[tuple[Any, ...]] = []

    def propose(self, step: DraftStep) -> list[Sequence[int]]:
        self.wanted.append(step.wanted.tolist())
        self.outputs.append(step.output.aux_hidden)
        step.wanted[:] = -1  # a member's own
        if isinstance(self.drafts[0], Exception):
            raise self.drafts[0]
        return [each for each in self.drafts if not isinstance(each, Exception)]


def cascade(*members: tuple[Scripted, DraftNeeds]) -> CascadeDrafter:
    aux = sorted({layer for _, needed in members for layer in needed.aux_layers})
    made = object.__new__(CascadeDrafter)
    made._members = [Member(drafter, needed, aux) for drafter, needed in members]
    return made


def step(wanted: list[int], kept: list[int] | None = None, outputs: Sequence[Any] = ()) -> Any:
    output = ModelOutput(logits=None, hidden=torch.zeros(1), aux_hidden=tuple(outputs))
    return DraftStep(
        inputs=SimpleNamespace(),  # type: ignore[arg-type]
        output=output,
        sequences=[SimpleNamespace() for _ in wanted],  # type: ignore[misc]
        kept=np.array(kept or [1] * len(wanted)),
        wanted=np.array(wanted),
        greedy=np.zeros(len(wanted), dtype=np.bool_),
        **{name: lambda *_: None for name in DraftStep.__dataclass_fields__ if name in ("passes", "draw")},  # type: ignore[arg-type]
    )


LAYER = CacheLayer(kv_heads=1, head_dim=WIDTH)


def test_the_second_is_asked_for_those_of_whom_the_first_knows_nothing() -> None:
    first, second = Scripted([1, 2, 3], [], [5], []), Scripted([9], [8, 8], [9], [7])
    made = cascade((first, DraftNeeds()), (second, DraftNeeds()))
    assert made.propose(step([2, 2, 3, 0])) == [[1, 2], [8, 8], [5], ()]
    assert (first.wanted, second.wanted) == ([[2, 2, 3, 0]], [[0, 2, 0, 0]])


def test_who_need_not_be_asked_is_not() -> None:
    first, second, follows = Scripted([1], [2]), Scripted([3], [4]), Scripted([5], [6])
    made = cascade((first, DraftNeeds()), (second, DraftNeeds()), (follows, DraftNeeds(layers=(LAYER,))))
    assert made.propose(step([1, 1])) == [[1], [2]]
    assert made.propose(step([0, 0])) == [(), ()]
    assert (len(first.wanted), len(second.wanted), len(follows.wanted)) == (1, 0, 2)
    made.propose(step([0, 0], kept=[1, 0]))  # one is over
    assert (len(first.wanted), len(second.wanted), len(follows.wanted)) == (2, 1, 3)


def test_each_has_the_outputs_that_it_asked_for() -> None:
    first, second = Scripted([]), Scripted([])
    made = cascade((first, DraftNeeds(aux_layers=(1, 5))), (second, DraftNeeds(aux_layers=(2, 5))))
    made.propose(step([1], outputs=["1", "2", "5"]))
    assert (first.outputs, second.outputs) == ([("1", "5")], [("2", "5")])


def test_one_that_fails_does_not_keep_the_other_from_following() -> None:
    first, second = Scripted(ValueError("lost")), Scripted([1])
    made = cascade((first, DraftNeeds()), (second, DraftNeeds(layers=(LAYER,))))
    with pytest.raises(ValueError, match="lost"):
        made.propose(step([1]))
    assert second.wanted == [[1]]
    with pytest.raises(ValueError, match="drafts for 1 sequences of 2"):
        cascade((Scripted([1]), DraftNeeds())).propose(step([1, 1]))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"], num_hidden_layers=3)
    randomised(ArchitectureChecks.reference(config)).save_pretrained(tmp_path)  # type: ignore[operator]
    return tmp_path


class AttendingDrafter:
    """Keeps embeddings of all tokens in a cache layer of its own, checks them, and drafts for every third text."""

    def __init__(self, context: SpeculatorContext) -> None:
        self._attention, self._layer = context.models.attention(), context.first_layer
        generator = torch.Generator().manual_seed(0)
        self._embedding = torch.randn(context.vocab_size, 1, WIDTH, generator=generator)
        self._whole = context.attention
        self.compared = 0

    def propose(self, step: DraftStep) -> list[Any]:
        x = self._embedding[step.inputs.input_ids]
        self._attention.begin(step.inputs)
        seen = self._attention.attend(0, x, x, x, step.inputs, None, None)
        again = self._whole.attend(self._layer, x, x, x, step.inputs, None, None)
        torch.testing.assert_close(seen, again)
        for i, sequence in enumerate(step.sequences):
            if step.kept[i]:
                last = int(step.inputs.query_start[i] + step.kept[i]) - 1
                written = int(step.inputs.positions[last]) + 1
                keys = self._embedding[torch.from_numpy(sequence.tokens[:written].copy())][:, 0]
                expected = (keys @ keys[-1] * WIDTH**-0.5).softmax(-1) @ keys
                torch.testing.assert_close(seen[last, 0], expected, rtol=1e-3, atol=1e-3)
                self.compared += 1
        assert len(step.output.aux_hidden) == 1
        sums = [int(sequence.tokens.sum()) for sequence in step.sequences]
        return [[3, 4][:wanted] if each % 3 == 0 else [] for each, wanted in zip(sums, step.wanted, strict=True)]


def attending(made: list[AttendingDrafter]) -> Any:
    def build(context: SpeculatorContext) -> AttendingDrafter:
        made.append(AttendingDrafter(context))
        return made[-1]

    def needed(context: NeedsContext) -> DraftNeeds:
        return DraftNeeds(layers=(LAYER,), aux_layers=(1,), weight_bytes=100)

    declared = Speculator(name="attending", build=build, needs=needed)
    return SimpleNamespace(maxserve_speculators=hookimpl(lambda: [declared]))


def texts(engine: Any, count: int = 8) -> list[list[int]]:
    params = SamplingParams(max_tokens=40, ignore_eos=True, fields=GREEDY)
    for i in range(count):
        engine.add(Request(id=str(i), prompt=(i + 3, *range(5, 30 - i)), params=params))
    found: dict[str, list[int]] = {str(i): [] for i in range(count)}
    while engine.busy:
        for output in engine.next_outputs():
            assert output.error is None, output.error
            found[output.id] += output.tokens
        engine.check()
    return list(found.values())


@pytest.mark.parametrize("order", [("attending", "standalone"), ("standalone", "attending"), ("ngram", "standalone")])
def test_caches_of_both_are_whole(
    order: tuple[str, str],
    plugin_host: Callable[..., Host],
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All drafts of the target itself stand, through preemption, chunks and prefixes, whatever the other proposes."""
    options: dict[str, Any] = {"max_batch_size": 6, "kv_cache_page_size": 16, "max_length": 128}
    options |= {"max_batch_input_tokens": 256}
    expected = texts(Served(target, plugin_host(), **options).engine)
    few_pages(monkeypatch, 13)
    seen: list[tuple[list[int], list[int]]] = []
    propose = Member.propose

    def recorded(member: Member, step: DraftStep, wanted: Any) -> Any:
        found = propose(member, step, wanted)
        if type(member._drafter).__name__ == "StandaloneDrafter":
            pairs = zip(step.sequences, found, wanted, strict=True)
            seen.extend((s.tokens.tolist(), list(drafts)) for s, drafts, most in pairs if most and len(drafts))
        return found

    monkeypatch.setattr(Member, "propose", recorded)
    others: list[AttendingDrafter] = []
    chosen = {"cascade__first": order[0], "cascade__then": order[1], "draft_model_path": str(target)}
    options |= {"speculative_method": "cascade", "num_speculative_tokens": 3, **chosen}
    served = Served(target, plugin_host(attending(others)), **options)
    seen.clear()  # those of the warm-up
    for _ in range(2):
        assert texts(served.engine) == expected
    whole = [[i + 3, *range(5, 30 - i), *text] for i, text in enumerate(expected)]
    assert len(seen) > 30
    for tokens, drafts in seen:
        text = next(each for each in whole if each[: len(tokens)] == tokens)
        assert drafts == text[len(tokens) :][: len(drafts)]
    stats = served.engine.stats()
    if "attending" in order:
        assert others[-1].compared > 100
    assert 0 < stats.accepted_tokens <= stats.draft_tokens
    assert stats.preemptions > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cascade needs --cascade.then, and .* brings none; give it"),
        ({"cascade__then": "ngram"}, "expected two different methods"),
        ({"cascade__then": "cascade"}, "none of which is cascade"),
        ({"cascade__then": "mtp", "suffix__max_spec_factor": 2.0}, "--suffix.max-spec-factor means nothing with"),
        ({"speculative_method": "ngram", "cascade__then": "suffix"}, "--cascade.then means nothing with"),
    ],
)
def test_what_makes_no_two_methods_is_refused(options: dict[str, Any], message: str, target: Path) -> None:
    with pytest.raises(MaxserveError, match=message):
        LLM(str(target), **{"speculative_method": "cascade", **options})


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("medusa", "medusa"),
        ("eagle", "eagle needs --draft-model-path, and .* brings none; give it"),
        ("standalone", "standalone needs --draft-model-path, and .* brings none; give it"),
        ("mtp", "LlamaForCausalLM.* has no layers that predict further tokens"),
    ],
)
def test_a_method_that_cannot_draft_is_refused(
    then: str, message: str, plugin_host: Callable[..., Host], target: Path
) -> None:
    with pytest.raises(MaxserveError, match=message):
        Served(target, plugin_host(), speculative_method="cascade", cascade__then=then)


def test_options_of_its_methods_are_its_own(target: Path) -> None:
    options = {"cascade__first": "suffix", "suffix__max_spec_factor": 2.0, "cascade__then": "standalone"}
    with pytest.raises(
        SettingsError, match=r"^--ngram.prompt-lookup-max means nothing with --speculative-method cascade"
    ):
        LLM(str(target), speculative_method="cascade", **options, draft_model_path="d", ngram__prompt_lookup_max=4)
    found = LLM(str(target), speculative_method="cascade", **options, draft_model_path=str(target), defer_resolve=True)
    assert found.settings.plugins.sections["cascade"]["then"] == "standalone"


def test_what_its_methods_require_the_source_of_the_model_brings() -> None:
    found = LLM(speculative_method="cascade", cascade__then="eagle", defer_resolve=True)
    assert found.settings.plugins.sections["draft_model"]["model_path"] == "maxserve/demo-eagle3"
