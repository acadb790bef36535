"""Drafts for benchmarks: the answer that a prompt had before, with wrong tokens in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maxserve import LLM
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.speculation import synthetic
from maxserve.plugins.speculation.options import SyntheticSettings
from maxserve.plugins.speculation.synthetic import SyntheticDrafter
from maxserve.testing.speculator import SpeculatorChecks

VOCAB = 50


class TestSynthetic(SpeculatorChecks):
    speculator = "synthetic"

    def test_it_proposes_tokens(self, served: Any, caplog: pytest.LogCaptureFixture) -> None:
        engine = served(drafting=True)
        self.texts(engine, self.requests())
        assert engine.stats().draft_tokens == 0, "nothing is known of a prompt that is new"
        self.texts(engine, self.requests())
        assert engine.stats().draft_tokens > 0
        assert not caplog.records


def drafter(acceptance: float) -> SyntheticDrafter:
    context: Any = SimpleNamespace(config=lambda cls: SyntheticSettings(acceptance=acceptance), vocab_size=VOCAB)
    return SyntheticDrafter(context)


def sequence(id: str, tokens: list[int], prompt: int, salt: str = "") -> Any:
    return SimpleNamespace(id=id, tokens=np.array(tokens), prompt_length=prompt, salt=salt)


def propose(drafter: SyntheticDrafter, asked: Any, *, kept: int = 1, wanted: int = 3) -> list[int]:
    step: Any = SimpleNamespace(sequences=[asked], kept=np.array([kept]), wanted=np.array([wanted]))
    return drafter.propose(step)[0]


def learned(acceptance: float, answer: list[int]) -> SyntheticDrafter:
    found = drafter(acceptance)
    assert propose(found, sequence("a", [1, 2], 2)) == []
    propose(found, sequence("a", [1, 2, *answer], 2), kept=0, wanted=0)
    return found


def test_the_answer_before_is_proposed() -> None:
    known = learned(1.0, [5, 6, 7, 8])
    assert propose(known, sequence("b", [1, 2, 5], 2)) == [6, 7, 8]
    assert propose(known, sequence("b", [1, 2, 5, 9], 2), wanted=1) == [7]
    assert propose(known, sequence("b", [1, 2, 5, 6, 7, 8], 2)) == []
    assert propose(known, sequence("c", [1, 2, 5], 1)) == [], "another prompt"
    assert propose(known, sequence("d", [1, 2, 5], 2, salt="other")) == [], "of another client"


def test_a_shorter_answer_replaces_no_longer_one() -> None:
    known = learned(1.0, [5, 6, 7, 8])
    propose(known, sequence("b", [1, 2, 9], 2), kept=0, wanted=0)
    assert propose(known, sequence("c", [1, 2, 5], 2)) == [6, 7, 8]
    propose(known, sequence("d", [1, 2, 9, 9, 9, 9, 9], 2), kept=0, wanted=0)
    assert propose(known, sequence("e", [1, 2, 5], 2)) == [9, 9, 9]


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 1.0])
def test_so_many_are_right(acceptance: float) -> None:
    answer = np.random.default_rng(1).integers(0, VOCAB, 4000).tolist()
    known = learned(acceptance, answer)
    found = propose(known, sequence("b", [1, 2], 2), wanted=4000)
    right = np.mean(np.array(found) == np.array(answer))
    assert right == pytest.approx(acceptance, abs=0.03)
    assert all(0 <= token < VOCAB for token in found)


def test_old_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "REMEMBERED", 10)
    known = drafter(1.0)
    for prompt in range(5):
        propose(known, sequence(str(prompt), [prompt, 7, 8, 9, 7], 1), kept=0, wanted=0)
    assert len(known._drafts) == 2
    assert propose(known, sequence("a", [4, 7], 1)) == [8, 9, 7]
    assert propose(known, sequence("b", [0, 7], 1)) == []


def test_the_share_is_an_option() -> None:
    found = LLM(speculative_method="synthetic", synthetic__acceptance=0.25)
    assert found._sections[SyntheticSettings].acceptance == 0.25
    with pytest.raises(SettingsError, match="acceptance"):
        LLM(synthetic__acceptance=1.5)
