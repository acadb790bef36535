"""Drafts change how many steps a text takes, and never the text."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.engine.drafting import LEARNED
from maxserve.core.engine.draw import Stage
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.overlap import Overlap, StreamQueue, ThreadQueue
from maxserve.core.engine.sequence import DraftNumbers
from maxserve.core.engine.sequence import Sequence as EngineSequence
from maxserve.core.interfaces.cache import CacheGroup
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.core.interfaces.sampler import Rows
from maxserve.core.interfaces.speculator import Drafts
from maxserve.plugins.speculation.lengths import AdaptiveLengths
from maxserve.testing.speculator import ScriptedDrafter
from tests.core.engine.conftest import EOS, VOCAB, next_token, recalling

Run = Callable[..., dict[str, list[Output]]]


@pytest.fixture(params=[False, ThreadQueue, StreamQueue], ids=["at once", "overlap", "overlap on a stream"])
def make_engine(make_engine: Callable[..., Engine], request: pytest.FixtureRequest) -> Callable[..., Engine]:
    """Engines that plan a step when the one before is done, and such that do so before where nothing is drafted."""
    return partial(make_engine, overlap=request.param)


def oracle(wrong: float = 0.0, seed: int = 0) -> ScriptedDrafter:
    """Knows how the hashing model goes on, and says something else with a probability of `wrong`."""
    random_numbers = random.Random(seed)

    def drafts(sequence: Any, wanted: int) -> list[int]:
        history = sequence.tokens.tolist()
        for _ in range(wanted):
            token = next_token(history)
            history.append(token if random_numbers.random() >= wrong else random_numbers.randrange(VOCAB))
        return [int(token) for token in history[len(history) - wanted :]]

    return ScriptedDrafter(drafts)


def answers(run: Run, engine: Engine, **params: Any) -> dict[str, list[int]]:
    """Greedy and sampled texts, of prompts shorter and longer than a step and of several lengths."""
    for index, temperature in enumerate((0.0, 1.0, 0.7, 1.5, 0.0)):
        given = SamplingParams(
            max_tokens=17 + index,
            ignore_eos=index != 4,
            seed=index,
            fields={"temperature": {"temperature": temperature}},
            **params,
        )
        prompt = tuple((7 * index + 3 * i) % 200 for i in range(20 * index + 5))
        engine.add(Request(id=str(index), prompt=prompt, params=given))
    return {id: [token for output in outputs for token in output.tokens] for id, outputs in run(engine).items()}


def greedy(**params: Any) -> SamplingParams:
    """The likeliest tokens, whatever ends a text."""
    return SamplingParams(fields={"temperature": {"temperature": 0.0}}, **{"ignore_eos": True, **params})


def steps_of(engine: Engine) -> int:
    return engine.stats().steps


def complete_step(engine: Engine) -> None:
    """Until the first step is complete: with overlap, a call later."""
    while not engine.step():
        pass


WINDOWS = (CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=24))


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": 2, "tokens": 24},
        {"pages": 14},
        {"pages": 13, "page_size": 8, "max_length": 120},
        {"groups": WINDOWS},
        {"in_flight": True, "draft_tokens": 1},
        {"in_flight": True, "mixed_step": 0.03},
        {"in_flight": True, "mixed_step": 0.02, "groups": WINDOWS},
        {"draft_tokens": 30},
        {"scheduler": "fair"},
        {"scheduler": "tts"},
    ],
    ids=str,
)
def test_texts_are_the_same_as_without_drafts(
    make_engine: Callable[..., Engine], run: Run, options: dict[str, Any], wrong: float
) -> None:
    plain = make_engine(**{k: v for k, v in options.items() if k != "draft_tokens"})
    expected = answers(run, plain)
    drafting = make_engine(drafter=recalling(expected, wrong), **options)
    assert answers(run, drafting) == expected
    if wrong < 1:
        assert steps_of(drafting) < steps_of(plain)


def test_drafts_that_are_right_take_fewer_steps(make_engine: Callable[..., Engine], run: Run) -> None:
    engine = make_engine(drafter=oracle(), draft_tokens=4)
    engine.add(Request(id="a", prompt=(1, 2, 3), params=greedy(max_tokens=21)))
    outputs = run(engine)["a"]
    assert [len(output.tokens) for output in outputs] == [1, 5, 5, 5, 5]
    assert outputs[-1].finish == "length"
    stats = engine.stats()
    assert (stats.steps, stats.draft_tokens, stats.accepted_tokens, stats.generated_tokens) == (5, 16, 16, 21)
    assert (stats.drafts, stats.accepted_by_depth) == (4, (4, 4, 4, 4))


@pytest.mark.parametrize("wrong", [0.0, 0.4, 1.0])
def test_outputs_count_their_drafts(make_engine: Callable[..., Engine], run: Run, wrong: float) -> None:
    engine = make_engine(drafter=oracle(wrong), draft_tokens=4)
    for index in range(3):
        engine.add(Request(id=str(index), prompt=(index, 2, 3), params=greedy(max_tokens=30)))
    outputs = [output for found in run(engine).values() for output in found]
    stats = engine.stats()
    assert sum(output.accepted for output in outputs) == stats.accepted_tokens
    assert sum(output.accepted + output.rejected for output in outputs) == stats.draft_tokens > 0
    assert all(output.accepted < len(output.tokens) for output in outputs)


def test_no_draft_is_behind_the_last_token(make_engine: Callable[..., Engine], run: Run) -> None:
    drafter = oracle()
    engine = make_engine(drafter=drafter, draft_tokens=8)
    engine.add(Request(id="a", prompt=(1, 2, 3), params=greedy(max_tokens=4)))
    assert [len(output.tokens) for output in run(engine)["a"]] == [1, 3]
    assert [step.wanted.tolist() for step in drafter.seen] == [[2], [0]]


def test_a_token_that_ends_a_text_ends_it_amid_drafts(make_engine: Callable[..., Engine], run: Run) -> None:
    texts = {}
    for drafter in (None, oracle()):
        engine = make_engine(drafter=drafter, draft_tokens=6)
        for index in range(40):
            params = greedy(ignore_eos=False, max_tokens=60, stop_token_ids=(index + 20,))
            engine.add(Request(id=str(index), prompt=(index,), params=params))
        found = run(engine)
        texts[drafter is None] = {
            id: ([t for o in outputs for t in o.tokens], outputs[-1].finish) for id, outputs in found.items()
        }
    assert texts[True] == texts[False]
    assert any(tokens[-1] == EOS for tokens, _ in texts[True].values())
    assert sum(finish == "stop" for _, finish in texts[True].values()) > 5


def test_logprobs_are_those_of_the_tokens(make_engine: Callable[..., Engine], run: Run) -> None:
    found = []
    for drafter in (None, oracle(0.3)):
        engine = make_engine(drafter=drafter)
        params = greedy(max_tokens=20, logprobs=2, prompt_logprobs=1)
        engine.add(Request(id="a", prompt=tuple(range(30)), params=params))
        engine.add(Request(id="b", prompt=(5,), params=greedy(max_tokens=9)))
        outputs = run(engine)
        assert all(len(output.logprobs) == len(output.tokens) for output in outputs["a"])
        found.append(
            (
                [logprob for output in outputs["a"] for logprob in output.logprobs],
                [logprob for output in outputs["a"] for logprob in output.prompt_logprobs],
                [logprob for output in outputs["b"] for logprob in output.logprobs],
            )
        )
    for plain, drafted in zip(*found, strict=True):
        assert [(each.token, each.rank, each.ids) for each in drafted] == [(e.token, e.rank, e.ids) for e in plain]
        assert [each.logprob for each in drafted] == pytest.approx([each.logprob for each in plain], abs=1e-5)
    assert len(found[0][0]) == 20


class CountingTransform:
    """Bars the tokens of a row's text, and hears of each token once."""

    def __init__(self) -> None:
        self.heard: dict[str, list[int]] = {}

    def prepare(self, rows: Rows) -> list[list[int]]:
        return [rows.tokens[i][rows.prompt_lengths[i] :].tolist() for i in range(len(rows))]

    def apply(self, logits: torch.Tensor, state: list[list[int]]) -> torch.Tensor:
        for row, tokens in enumerate(state):
            logits[row, tokens] = -torch.inf
        return logits

    def observe(self, rows: Rows, tokens: Sequence[int]) -> None:
        for owner, token in zip(rows.owners, tokens, strict=True):
            self.heard.setdefault(owner.id, []).append(token)


def test_samplers_see_the_drafts_before_a_row_and_hear_of_tokens_that_stand(
    make_engine: Callable[..., Engine], run: Run
) -> None:
    found = []
    for drafter in (None, oracle(0.2)):
        transform = CountingTransform()
        stage = Stage.of("counting", transform, keeps_argmax=False)
        texts = answers(run, make_engine(drafter=drafter, stages=[stage]))
        assert transform.heard == texts
        assert all(len(set(tokens)) == len(tokens) for tokens in texts.values())
        found.append(texts)
    assert found[0] == found[1]


class FailingTransform:
    """Fails for the requests whose last token is even, when several rows are there."""

    def prepare(self, rows: Rows) -> bool:
        return True

    def apply(self, logits: torch.Tensor, state: bool) -> torch.Tensor:
        if len(logits) > 2:
            raise ValueError("too many rows")
        return logits


def test_a_sampler_that_fails_for_drafts_ends_its_requests(make_engine: Callable[..., Engine], run: Run) -> None:
    stage = Stage.of("failing", FailingTransform(), keeps_argmax=False)
    engine = make_engine(drafter=oracle(), stages=[stage])
    engine.add(Request(id="a", prompt=(1, 2), params=greedy(max_tokens=9)))
    outputs = run(engine)["a"]
    assert outputs[-1].error is not None
    assert "too many rows" in outputs[-1].error


@pytest.mark.parametrize(
    ("drafts", "complaint"),
    [
        (lambda sequence, wanted: [VOCAB] * wanted, f"proposed the token {VOCAB}"),
        (lambda sequence, wanted: [-1], "proposed the token -1"),
        (lambda sequence, wanted: 1 / 0, "failed"),
        (lambda sequence, wanted: None, "failed"),
    ],
)
def test_a_drafter_that_is_wrong_is_logged_once_and_does_no_harm(
    make_engine: Callable[..., Engine], run: Run, caplog: pytest.LogCaptureFixture, drafts: Any, complaint: str
) -> None:
    expected = answers(run, make_engine())
    with caplog.at_level(logging.ERROR, "maxserve.engine"):
        assert answers(run, make_engine(drafter=ScriptedDrafter(drafts))) == expected
    assert [record.getMessage() for record in caplog.records if complaint in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_more_drafts_than_wanted_are_cut(make_engine: Callable[..., Engine], run: Run) -> None:
    expected = answers(run, make_engine())
    long = ScriptedDrafter(lambda sequence, wanted: [next_token(sequence.tokens.tolist())] + [3] * 50)
    assert answers(run, make_engine(drafter=long)) == expected


def test_the_drafter_sees_every_token_that_is_computed(make_engine: Callable[..., Engine], run: Run) -> None:
    """Its own cache would be whole: rows that stand are all tokens of each sequence, in order, until it is over."""
    drafter = oracle(0.3)
    engine = make_engine(drafter=drafter, tokens=24)
    texts = answers(run, engine)
    seen: dict[str, list[int]] = {}
    for step in drafter.seen:
        for i, sequence in enumerate(step.sequences):
            start = int(step.inputs.query_start[i])
            assert step.kept[i] <= step.inputs.query_start[i + 1] - start
            seen.setdefault(sequence.id, []).extend(step.inputs.input_ids[start : start + int(step.kept[i])].tolist())
            assert step.output.hidden.shape[0] == len(step.inputs.input_ids)
    for id, tokens in seen.items():
        text = tokens[20 * int(id) + 5 :]  # behind the prompt
        assert text == texts[id][: len(text)]
        assert len(text) >= len(texts[id]) - 1 - engine.draft_tokens - 1


def test_drafts_take_no_page_and_no_token_from_others(make_engine: Callable[..., Engine], run: Run) -> None:
    engine = make_engine(drafter=oracle(), draft_tokens=16, tokens=20, rows=8)
    for index in range(8):
        params = greedy(max_tokens=30)
        engine.add(Request(id=str(index), prompt=(index, 1), params=params))
    while engine.stats().running < 8 or engine.stats().waiting:
        engine.step()
    for _ in range(3):
        assert len({output.id for output in engine.step()}) == 8, "each has a token in each step"
    assert all(outputs[-1].finish == "length" for outputs in run(engine).values())


def test_aborted_requests_leave_nothing(make_engine: Callable[..., Engine], run: Run) -> None:
    engine = make_engine(drafter=oracle(0.5))
    for index in range(6):
        params = greedy(max_tokens=40)
        engine.add(Request(id=str(index), prompt=(index, 1, 2), params=params))
    for round in range(6):
        engine.step()
        engine.abort([str(round)])
        engine.check()
    run(engine, steps=2)  # a step may be in flight
    assert not engine.busy


def test_random_numbers_go_back_in_their_order() -> None:
    def sequence() -> EngineSequence:
        request = Request(id="a", prompt=(1,), params=SamplingParams(seed=3))
        return EngineSequence(request, limit=9, ends=frozenset(), params={})

    plain, other = sequence(), sequence()
    expected = [plain.uniform() for _ in range(40)]
    drawn = [other.uniform() for _ in range(5)]
    other.put_back(drawn[2:])
    np.testing.assert_array_equal(drawn[:2] + [other.uniform() for _ in range(38)], expected)


def test_rejected_drafts_give_their_pages_back(make_engine: Callable[..., Engine], run: Run) -> None:
    """What is computed next has pages of its own, also in steps without drafts."""
    options = {"page_size": 4, "pages": 80}
    expected = answers(run, make_engine(**options))
    seldom = ScriptedDrafter(lambda sequence, wanted: [1] * wanted if len(sequence.tokens) % 3 == 0 else [])
    engine = make_engine(drafter=seldom, draft_tokens=15, **options)
    assert answers(run, engine) == expected
    engine.add(Request(id="alone", prompt=(1, 2, 3), params=greedy(max_tokens=60)))
    in_flight = 15 if engine._overlap is not None else 0  # drafts that are being verified
    for length in range(4, 40):
        engine.step()
        most = -(-(length + 1 + in_flight) // 4)
        assert engine.stats().cache.owned <= most, "a page for what stands, and none for drafts"
    run(engine)


def test_accepted_drafts_are_cached_as_any_token(make_engine: Callable[..., Engine], run: Run) -> None:
    found = []
    for drafter in (None, oracle()):
        engine = make_engine(drafter=drafter, draft_tokens=6)
        engine.add(Request(id="first", prompt=(1, 2, 3), params=greedy(max_tokens=70)))
        tokens = [token for output in run(engine)["first"] for token in output.tokens]
        engine.add(Request(id="second", prompt=(1, 2, 3, *tokens), params=greedy(max_tokens=2)))
        found.append((tokens, run(engine)["second"][0].cached))
    assert found[0] == found[1]
    assert found[0][1] == 64


def test_one_that_keeps_nothing_is_asked_where_drafts_are_wanted_and_hears_of_ends(
    make_engine: Callable[..., Engine], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = ScriptedDrafter(lambda sequence, wanted: [0] * wanted)
    engine = make_engine(drafter=drafter)
    assert engine._drafting is not None
    context: Any = SimpleNamespace(draft_tokens=4)
    lengths = AdaptiveLengths(context)
    engine._drafting._follows, engine._drafting._lengths = False, lengths
    with lengths.measuring():
        texts = answers(run, engine)
    over = [step.sequences[i].id for step in drafter.seen for i in np.flatnonzero(step.kept == 0).tolist()]
    assert set(over) == set(texts)
    assert len(over) == len(texts) or engine._overlap is not None, "a step too many says it again"
    assert len(drafter.seen) <= len(over)
    assert engine.stats().draft_tokens == 0
    answers(run, engine)
    assert len(drafter.seen) > len(texts)
    assert engine.stats().draft_tokens > 0


class Resting(ScriptedDrafter):
    """Drafts nothing for texts that begin while it is `tired`."""

    tired = False
    texts: frozenset[str] = frozenset()

    @property
    def rests(self) -> bool:
        return not self.texts

    def propose(self, step: Any) -> list[Sequence[int]]:
        ids = {each.id for each, kept in zip(step.sequences, step.kept, strict=True) if kept}
        self.texts = frozenset() if self.tired else self.texts | ids
        found = super().propose(step)
        return [[] for _ in found] if self.tired else found


@pytest.mark.parametrize("rests", [True, False], ids=["rests", "wants none"])
def test_where_nothing_is_drafted_steps_are_launched_ahead(
    make_engine: Callable[..., Engine], run: Run, monkeypatch: pytest.MonkeyPatch, rests: bool
) -> None:
    """Most of them, and each text is as ever; where drafts may come none is, and the device waits."""
    expected = answers(run, make_engine())
    ahead: list[bool] = []
    launch = Overlap.launch

    def noting(overlap: Overlap, in_flight: Any, before: Any, begun: float) -> None:
        ahead.append(before is not None)
        launch(overlap, in_flight, before, begun)

    monkeypatch.setattr(Overlap, "launch", noting)
    drafter = Resting(oracle(0.3).drafts)
    engine = make_engine(drafter=drafter)
    assert engine._drafting is not None
    if not rests:
        engine._drafting._follows, engine._drafting._resting = False, None
        choose = SimpleNamespace(choose=lambda step: None, learn_drafter=lambda *told: None)
        engine._drafting._lengths = choose  # type: ignore[assignment]
    drafter.tired = True
    assert answers(run, engine) == expected
    assert engine.stats().draft_tokens == 0
    if engine._overlap is not None:
        assert sum(ahead) > 0.5 * len(ahead), "prompts and some steps are waited for"
        over = {s.id for step in drafter.seen for s, kept in zip(step.sequences, step.kept, strict=True) if not kept}
        assert rests or over == set(expected)
    ahead.clear()
    drafter.tired = False
    engine._drafting._lengths = None
    assert answers(run, engine) == expected
    assert engine.stats().draft_tokens > 0
    assert not any(ahead[2:])


def test_of_steps_that_have_no_drafts_one_of_some_is_told_of(
    make_engine: Callable[..., Engine], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how many they were; all are told of one by one while times are measured."""
    told: list[int] = []
    engine = make_engine(drafter=ScriptedDrafter(lambda sequence, wanted: [0] * wanted))
    drafting = engine._drafting
    assert drafting is not None
    choose = SimpleNamespace(
        choose=lambda step: told.append(step.steps), learn_drafter=lambda *told: None, measuring=nullcontext
    )
    monkeypatch.setattr(drafting, "_follows", False)
    monkeypatch.setattr(drafting, "_lengths", choose)
    engine.add(Request(id="text", prompt=(1, 2, 3), params=greedy(max_tokens=80, ignore_eos=True)))
    run(engine)
    assert 80 - LEARNED < sum(told) <= engine.stats().steps
    assert len(told) <= 3 + 80 / LEARNED
    told.clear()
    with drafting.measuring():
        engine.add(Request(id="measured", prompt=(1, 2, 3), params=greedy(max_tokens=80, ignore_eos=True)))
        run(engine)
    assert told[1:] == [1] * (len(told) - 1)
    assert len(told) >= 80


def sampled(**params: Any) -> SamplingParams:
    return SamplingParams(ignore_eos=True, fields={"temperature": {"temperature": 1.0}}, **params)


@pytest.mark.parametrize(
    ("probs", "complaint"),
    [
        (torch.ones(2, VOCAB), "are no distributions"),
        (torch.full((2, VOCAB), -1.0 / VOCAB), "are no distributions"),
        (torch.full((2, VOCAB), torch.nan), "are no distributions"),
        (torch.full((2, VOCAB - 1), 1.0 / (VOCAB - 1)), r"probs of 2 drafts are \[2, 210\]"),
        (torch.full((1, VOCAB), 1.0 / VOCAB), r"probs of 2 drafts are \[1, 211\]"),
    ],
)
def test_what_is_no_distribution_is_logged_once_and_does_no_harm(
    make_engine: Callable[..., Engine], run: Run, caplog: pytest.LogCaptureFixture, probs: torch.Tensor, complaint: str
) -> None:
    engine = make_engine(drafter=ScriptedDrafter(lambda sequence, wanted: Drafts([1, 2], probs)))
    engine.add(Request(id="a", prompt=(1, 2), params=sampled(max_tokens=9)))
    assert run(engine)["a"][-1].finish == "length"
    assert engine.stats().draft_tokens == 0
    assert re.search(complaint, caplog.text)
    assert len(caplog.records) == 1


def test_more_draws_than_wanted_are_refused(
    make_engine: Callable[..., Engine], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Greedily(ScriptedDrafter):
        def propose(self, step: Any) -> list[Sequence[int]]:
            for _ in range(9):
                step.draw(np.arange(len(step.sequences)), torch.zeros(len(step.sequences), VOCAB))
            return []

    expected = answers(run, make_engine())
    assert answers(run, make_engine(drafter=Greedily(lambda sequence, wanted: []))) == expected
    assert "drew more than" in caplog.text


def test_what_was_drawn_and_is_not_proposed_says_nothing_of_what_is(
    make_engine: Callable[..., Engine], run: Run
) -> None:
    """Drafts other than the drawn ones are compared with what is drawn in their places."""

    class Changing(ScriptedDrafter):
        def propose(self, step: Any) -> list[Sequence[int]]:
            who = np.flatnonzero(step.wanted)
            first = step.draw(who, torch.zeros(len(who), VOCAB - 3)) if len(who) else ()
            found: list[Sequence[int]] = [[] for _ in step.sequences]
            for i, token in zip(who, first, strict=True):
                found[i] = [(int(token) + 1) % VOCAB, 2]
            return found

    engine = make_engine(drafter=Changing(lambda sequence, wanted: []))
    for index in range(4):
        engine.add(Request(id=str(index), prompt=(index,), params=sampled(max_tokens=20)))
    while engine.busy:
        engine.step()
        assert all(not any(p is not None for p in s.draft_probs) for s in engine._queues.running.values())
    assert engine.stats().draft_tokens > 0


def test_distributions_are_kept_where_tokens_are_drawn_without_a_seed(
    make_engine: Callable[..., Engine], run: Run
) -> None:
    class Drawing(ScriptedDrafter):
        def propose(self, step: Any) -> list[Sequence[int]]:
            who = np.flatnonzero(step.wanted)
            first = step.draw(who, torch.zeros(len(who), VOCAB)) if len(who) else ()
            found: list[Sequence[int]] = [[] for _ in step.sequences]
            for i, token in zip(who, first, strict=True):
                found[i] = [int(token)]
            return found

    engine = make_engine(drafter=Drawing(lambda sequence, wanted: []))
    engine.add(Request(id="greedy", prompt=(1,), params=greedy(max_tokens=9)))
    engine.add(Request(id="seeded", prompt=(2,), params=sampled(max_tokens=9, seed=1)))
    engine.add(Request(id="drawn", prompt=(3,), params=sampled(max_tokens=9)))
    complete_step(engine)
    kept = {id: [p is not None for p in s.draft_probs] for id, s in engine._queues.running.items()}
    assert kept == {"greedy": [], "seeded": [], "drawn": [True]}
    run(engine)


def test_what_drafts_were_drawn_from_is_one_table_and_read_at_once(
    make_engine: Callable[..., Engine], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw waits for the device once, however many sequences it has."""
    waits: list[str] = []
    reads: list[int] = []

    class Twice(ScriptedDrafter):
        def propose(self, step: Any) -> list[Sequence[int]]:
            who = np.flatnonzero(step.wanted > 1)
            found: list[list[int]] = [[] for _ in step.sequences]
            for _ in range(2 if len(who) else 0):
                before = len(waits)
                tokens = step.draw(who, torch.zeros(len(who), VOCAB))
                reads.append(len(waits) - before)
                for i, token in zip(who, tokens.tolist(), strict=True):
                    found[i].append(token)
            return list(found)

    for name in ("tolist", "item", "__float__", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, _counted(getattr(torch.Tensor, name), waits))
    engine = make_engine(drafter=Twice(lambda sequence, wanted: []))
    for index in range(4):
        engine.add(Request(id=str(index), prompt=(index,), params=sampled(max_tokens=20)))
    complete_step(engine)
    kept = [p for s in engine._queues.running.values() for p in s.draft_probs if p is not None]
    assert (len({id(p.table) for p in kept}), len({p.row for p in kept})) == (1, 8)
    run(engine)
    assert set(reads) == {1}


def _counted(whole: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        calls.append(whole.__name__)
        return whole(*given)

    return call


def test_numbers_for_drafts_depend_on_purpose_and_position_alone() -> None:
    one, other = DraftNumbers(3), DraftNumbers(3)
    positions = list(range(200))
    forward = {(p, at): one.at(p, at) for p in (DraftNumbers.DRAW, DraftNumbers.ACCEPT) for at in positions}
    backward = {
        (p, at): other.at(p, at) for at in reversed(positions) for p in (DraftNumbers.ACCEPT, DraftNumbers.DRAW)
    }
    assert forward == backward
    assert len(set(forward.values())) == 400
    assert DraftNumbers(4).at(DraftNumbers.DRAW, 0) != one.at(DraftNumbers.DRAW, 0)


def test_the_numbers_of_tokens_can_be_looked_at_before() -> None:
    request = Request(id="a", prompt=(1,), params=SamplingParams(seed=3))
    plain, other = (EngineSequence(request, limit=9, ends=frozenset(), params={}) for _ in range(2))
    ahead = [plain.peek(i) for i in range(70)]
    assert [other.uniform() for _ in range(70)] == ahead == [plain.uniform() for _ in range(70)]
