"""Heads that follow a text later, when drafts are wanted of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.engine.drafting import Drafting
from maxserve.interfaces.runner import ModelOutput
from maxserve.interfaces.speculator import DraftedStep
from maxserve.plugins.speculation import heads
from maxserve.plugins.speculation.heads import Behind, HeadDrafter
from tests.plugins.speculation.test_eagle import Eagle1


def computed(*values: float) -> ModelOutput:
    """A hidden state and the output of one layer for each row."""
    hidden = torch.tensor(values)[:, None].expand(-1, 4)
    return ModelOutput(logits=None, hidden=hidden, aux_hidden=(-hidden[:, :2],))


def rows_of(behind: Behind, id: str, position: int) -> list[float]:
    (rows,) = behind.take([id], np.array([position]))
    found = behind.output(torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(found.aux_hidden[0], -found.hidden[:, :2])
    return found.hidden[:, 0].tolist()


def test_rows_are_kept_by_sequence_until_they_are_taken() -> None:
    behind = Behind(most_rows=8)
    assert behind.fits(3, computed(0))
    behind.add(["a", "b"], np.array([5, 9]), np.array([2, 1]), computed(1, 2, 3))
    behind.add(["b", "a"], np.array([10, 7]), np.array([1, 1]), computed(4, 5))
    assert [len(behind.rows(id, position)) for id, position in (("a", 8), ("b", 11), ("c", 1))] == [3, 2, 0]
    assert rows_of(behind, "a", 8) == [1, 2, 5]
    assert rows_of(behind, "a", 8) == []
    assert behind.fits(3, computed(0))
    assert not behind.fits(4, computed(0))
    assert rows_of(behind, "b", 11) == [3, 4]
    assert behind.fits(8, computed(0)), "all are taken"
    assert not behind.fits(9, computed(0))


def test_steps_of_the_same_sequences_are_one_run() -> None:
    behind = Behind(most_rows=16)
    assert behind.fits(12, computed(0))
    ones = np.array([1, 1])
    for step in range(4):
        behind.add(["a", "b"], np.array([5, 9]) + step, ones, computed(step, 10 + step))
    assert len(behind._runs) == 1
    assert rows_of(behind, "a", 9) == [0, 1, 2, 3]
    behind.add(["b"], np.array([13]), ones[:1], computed(14))
    behind.add(["a", "b"], np.array([12, 14]), ones, computed(7, 15))
    assert rows_of(behind, "a", 13) == [7], "what was taken is gone"
    assert rows_of(behind, "b", 15) == [10, 11, 12, 13, 14, 15]


def test_rows_that_a_gap_is_behind_are_lost() -> None:
    behind = Behind(most_rows=8)
    assert behind.fits(3, computed(0))
    behind.add(["a"], np.array([5]), np.array([2]), computed(1, 2))
    assert rows_of(behind, "a", 8) == []
    behind.add(["a"], np.array([5]), np.array([2]), computed(1, 2))
    behind.add(["a"], np.array([3]), np.array([1]), computed(3))
    assert rows_of(behind, "a", 4) == [3]


def test_sequences_that_are_over_take_no_room() -> None:
    behind = Behind(most_rows=2)
    assert behind.fits(2, computed(0))
    behind.add(["a", "b"], np.array([5, 9]), np.array([1, 1]), computed(1, 2))
    behind.forget("a")
    assert not behind.fits(1, computed(0))
    behind.forget("b")
    assert behind.fits(2, computed(0))


BUDGET = {"max_batch_input_tokens": 512}  # and so many rows are kept at most


class Told:
    """Rows of each pass of a head, and the times that were told to be no price of drafts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.late = 0
        forward, catch_up = HeadDrafter._forward, HeadDrafter._catch_up

        def counted(drafter: HeadDrafter, inputs: Any, hidden: Any) -> Any:
            self.rows.append(len(inputs.input_ids))
            return forward(drafter, inputs, hidden)

        def noted(drafter: HeadDrafter, *given: Any) -> Any:
            before = len(self.rows)
            catch_up(drafter, *given)
            self.late += len(self.rows) - before

        monkeypatch.setattr(HeadDrafter, "_forward", counted)
        monkeypatch.setattr(HeadDrafter, "_catch_up", noted)


def wanting(monkeypatch: pytest.MonkeyPatch, wants: Callable[[str], bool], every: int) -> None:
    """From now on, sequences of such ids want drafts in some of the steps."""
    steps, wanted = count(1), Drafting._wanted

    def seldom(drafting: Drafting, in_flight: Any, most: Any) -> Any:
        found = wanted(drafting, in_flight, most if next(steps) % every == 0 else 0)
        found[[not wants(sequence.id) for sequence in in_flight.step.sequences]] = 0
        return found

    monkeypatch.setattr(Drafting, "_wanted", seldom)


class TestLater(Eagle1):
    tokens = 40

    @pytest.mark.parametrize("rows", [3, 30])
    def test_what_there_is_no_room_for_is_followed(
        self, served: Any, tmp_path: Path, proposed: Any, monkeypatch: pytest.MonkeyPatch, rows: int
    ) -> None:
        monkeypatch.setattr(heads, "MOST_BYTES", 4 * 64 * rows)  # the rows of 64 floats
        wanting(monkeypatch, lambda id: True, every=19)
        told = Told(monkeypatch)
        engine = served(drafting=True, num_speculative_tokens=3, enable_prefix_caching=False, **BUDGET)
        self.texts(engine, self.requests())
        assert proposed
        assert told.late or rows == 3, "where sequences are more than rows, these are followed at once"
        assert self.differing(tmp_path / "target", proposed) == []

    def test_a_text_that_wants_no_drafts_is_not_followed(
        self, served: Any, tmp_path: Path, proposed: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.requests()[0]
        wanting(monkeypatch, lambda id: id == first.id, every=30)
        told = Told(monkeypatch)
        engine = served(drafting=True, num_speculative_tokens=3, enable_prefix_caching=False, **BUDGET)
        self.texts(engine, self.requests())
        assert proposed
        assert told.late > 0
        prompts = sum(len(request.prompt) for request in self.requests())
        assert sum(told.rows) - prompts < 2 * self.tokens, "what was followed besides is one of eight texts"
        assert self.differing(tmp_path / "target", proposed) == []


class Unforeseen:
    """A DraftLengths that foresees no drafts, and wants some of the texts that `wants` names."""

    def __init__(self) -> None:
        self.wants: set[str] = set()
        self.foreseen = False
        self.asked = 0

    def measuring(self) -> Any:
        return nullcontext()

    def choose(self, step: DraftedStep) -> Any:
        return np.array([2 * (each.id in self.wants) for each in step.sequences], dtype=np.int64)

    def learn_drafter(self, step: DraftedStep, slots: Any, wanted: Any, proposed: Any, seconds: float) -> None:
        self.asked = max(self.asked, int((wanted > 0).sum()))

    def foresees(self, sequences: int) -> bool:
        return self.foreseen


class TestUnforeseen(Eagle1):
    """Texts that begin while no drafts are foreseen."""

    tokens = 40

    @pytest.fixture
    def unforeseen(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Unforeseen, Told]]:
        """Makes an engine; its lengths; what its head follows."""

        def make(**options: Any) -> tuple[Any, Unforeseen, Told]:
            engine, lengths = served(drafting=True, num_speculative_tokens=3, **options), Unforeseen()
            monkeypatch.setattr(engine._drafting, "_lengths", lengths)
            monkeypatch.setattr(engine._drafting, "_foreseeing", lengths)
            return engine, lengths, Told(monkeypatch)

        return make

    def test_they_are_not_followed(self, unforeseen: Any) -> None:
        engine, _, told = unforeseen(kv_cache_page_size=128)
        self.texts(engine, self.requests())
        assert told.rows == []
        assert engine._drafting._drafter.rests

    def test_prompts_that_others_may_begin_with_are(self, unforeseen: Any) -> None:
        engine, _, told = unforeseen(kv_cache_page_size=16, enable_prefix_caching=False)
        self.texts(engine, self.requests())
        assert sum(told.rows) == sum(len(r.prompt) for r in self.requests() if len(r.prompt) >= 16) > 0

    def test_one_of_some_is_followed_and_may_have_drafts(
        self, unforeseen: Any, tmp_path: Path, proposed: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heads, "SAMPLED", 7)
        engine, lengths, told = unforeseen(kv_cache_page_size=128)
        lengths.wants = {request.id for request in self.requests()}
        self.texts(engine, self.requests())
        assert proposed
        seventh = self.requests()[6].prompt
        assert {tuple(tokens[: len(seventh)]) for tokens, _ in proposed} == {tuple(seventh)}
        assert lengths.asked == 1, "of the others nothing was asked"
        assert 0 < sum(told.rows) < self.tokens
        assert self.differing(tmp_path / "target", proposed) == []

    def test_texts_that_were_followed_are_left_but_for_one(self, unforeseen: Any) -> None:
        engine, lengths, _ = unforeseen()
        drafter = engine._drafting._drafter
        lengths.foreseen = True
        for request in self.requests()[:4]:
            engine.add(request)
        for _ in range(9):
            engine.next_outputs()
        assert len(drafter._texts) == 4
        lengths.foreseen = False
        engine.next_outputs()
        assert len(drafter._texts) == 1

    def test_a_request_that_is_given_up_is_followed_no_longer(
        self, unforeseen: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heads, "UNSEEN", 4)
        engine, lengths, _ = unforeseen()
        lengths.foreseen = True
        first, *others = self.requests()[:4]
        for request in (first, *others):
            engine.add(request)
        for _ in range(3):
            engine.next_outputs()
        assert first.id in engine._drafting._drafter._texts
        engine.abort([first.id])
        for _ in range(12):
            engine.next_outputs()
        assert first.id not in engine._drafting._drafter._texts
        assert others[0].id in engine._drafting._drafter._texts
