"""Suffix decoding: what it proposes, what it keeps of past answers, and that texts are those without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxserve import LLM
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.speculation.options import SuffixSettings
from maxserve.plugins.speculation.suffix import ENTERED, RUN, TRIED, PastAnswers, SuffixDrafter, likeliest
from maxserve.testing.speculator import SpeculatorChecks


class TestSuffix(SpeculatorChecks):
    speculator = "suffix"


class TestSuffixWithPastAnswers(SpeculatorChecks):
    speculator = "suffix"
    options: ClassVar[dict[str, Any]] = {"suffix__max_cached_tokens": 2000}

    def test_past_answers_are_drafts(self, served: Callable[..., Any]) -> None:
        engine = served(drafting=True, num_speculative_tokens=8)
        rates = []
        for _ in range(2):
            before = engine.stats()
            self.texts(engine, self.requests())
            after = engine.stats()
            rates.append((after.accepted_tokens - before.accepted_tokens) / (after.drafts - before.drafts))
        assert rates[1] > max(2.5, rates[0])


def drafter(**settings: Any) -> Any:
    chosen = SuffixSettings(**settings)
    made: Any = SuffixDrafter(SimpleNamespace(config=lambda schema: chosen))  # type: ignore[arg-type]
    return made


def sequence(id: str, tokens: list[int], prompt: int = 1, salt: str = "") -> Any:
    return SimpleNamespace(id=id, tokens=np.array(tokens, dtype=np.int64), prompt_length=prompt, salt=salt)


def propose(made: Any, *sequences: Any, wanted: int = 8, kept: int = 1) -> list[list[int]]:
    count = len(sequences)
    found: list[list[int]] = made.propose(
        SimpleNamespace(sequences=sequences, wanted=np.full(count, wanted), kept=np.full(count, kept))
    )
    return found


def end(made: Any, *sequences: Any) -> None:
    assert propose(made, *sequences, wanted=0, kept=0) == [[]] * len(sequences)


@pytest.mark.parametrize(
    ("tokens", "drafts"),
    [
        ([1, 2, 3, 4, 5, 9, 1, 2], [3, 4]),  # two match, two follow
        ([1, 2, 3, 4, 5, 9, 1, 2, 3, 4], [5, 9, 1, 2]),
        ([1, 2, 3, 9, 1, 2, 4, 8, 1, 2, 3, 7, 1, 2], [3, 7]),  # the most frequent, then the latest
        ([5, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2, 4, 9, 5, 1, 2], [3, 8, 1]),  # the longest match
        ([5, 5, 5], [5, 5]),  # a loop goes on
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_what_mostly_followed_is_proposed(tokens: list[int], drafts: list[int]) -> None:
    assert propose(drafter(), sequence("a", tokens)) == [drafts]


def test_more_drafts_for_longer_matches_within_what_is_wanted() -> None:
    text = list(range(60))
    for length in (2, 3, 4, 6, 8, 12, 16, 24):
        assert propose(drafter(), sequence("a", [*text, *text[:length]]), wanted=30) == [text[length : 2 * length]]
    repeated = sequence("a", [*text, *text[:16]])
    assert propose(drafter(), repeated, wanted=5) == [text[16:21]]
    assert propose(drafter(max_spec_factor=0.5), repeated, wanted=30) == [text[16:24]]
    assert propose(drafter(max_match_length=6), repeated, wanted=30) == [text[16:22]]


def test_unlikely_drafts_are_left_out() -> None:
    tokens = [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 6, 7, 1, 2]
    assert propose(drafter(), sequence("a", tokens)) == [[3, 5]]
    assert propose(drafter(min_token_prob=0.5), sequence("a", tokens)) == [[3]]
    assert propose(drafter(min_token_prob=0.9), sequence("a", tokens)) == [[]]


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=6), st.floats(0, 1))
def test_drafts_are_the_most_frequent_path(following: list[list[int]], least: float) -> None:
    drafts, expected = likeliest(following, 4, least)
    share, total = 1.0, 0.0
    for at, token in enumerate(drafts):
        before = [tokens for tokens in following if len(tokens) > at and tokens[:at] == drafts[:at]]
        counts = {each: sum(tokens[at] == each for tokens in before) for each in range(3)}
        assert counts[token] == max(counts.values())
        share *= counts[token] / len(before)
        assert share >= least or len(before) == 1
        total += share
    assert total == pytest.approx(expected)


def test_past_answers_are_off_by_default() -> None:
    made = drafter()
    end(made, sequence("a", [1, 7, 8, 9, 10]))
    assert propose(made, sequence("b", [1, 7, 8])) == [[]]


def test_past_answers_of_the_same_salt_are_proposed() -> None:
    made = drafter(max_cached_tokens=100)
    end(made, sequence("a", [3, 1, 7, 8, 9, 10], prompt=2, salt="s"))
    assert propose(made, sequence("b", [4, 3, 1], prompt=3, salt="s")) == [[7, 8]], "behind the end of the prompt"
    assert propose(made, sequence("c", [2, 7, 8], salt="s")) == [[9, 10]]
    assert propose(made, sequence("d", [2, 7, 8], salt="other"), sequence("e", [2, 7, 8])) == [[], []]
    assert propose(made, sequence("f", [9, 3, 1], salt="s", prompt=1)) == [[7, 8]]
    end(made, sequence("g", [5, 6, 7, 8, 9], prompt=5, salt="s"))  # prompts are no answers
    assert propose(made, sequence("h", [5, 6], salt="s")) == [[]]


def test_the_likelier_of_this_text_and_past_answers() -> None:
    made = drafter(max_cached_tokens=100)
    end(made, sequence("a", [0, 1, 2, 3, 4, 5, 6]))
    assert propose(made, sequence("b", [3, 4, 9, 1, 2, 3, 4])) == [[5, 6]]
    assert propose(made, sequence("c", [1, 2, 3, 4, 8, 8, 1, 2, 3, 4])) == [[8, 8, 1, 2]]


def test_the_answers_that_are_used_stay() -> None:
    past = PastAnswers(10)
    for first in (1, 5):
        past.add("s", np.array([], dtype=np.int64), np.arange(first, first + 4))
    past.work(100)
    run = np.array([1, 2], dtype=np.int32).tobytes()
    assert [place.end for place in past.places("s", run)] == [2]
    past.add("t", np.array([], dtype=np.int64), np.arange(20, 24))
    assert (len(past), past.tokens) == (2, 8)
    assert [len(past.places("s", np.array([a, a + 1], dtype=np.int32).tobytes())) for a in (1, 5)] == [1, 0]
    past.add("t", np.array([], dtype=np.int64), np.arange(30, 60))  # of a longer one the beginning is kept
    past.work(100)
    assert (len(past), past.tokens, past.places("s", run)) == (1, 10, [])
    assert list(past._places) == ["t"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 2), max_size=8)), max_size=12))
def test_nothing_is_left_of_answers_that_are_gone(added: list[tuple[str, list[int]]]) -> None:
    past = PastAnswers(12)
    for salt, answer in added:
        past.add(salt, np.array([2, 1]), np.array(answer, dtype=np.int64))
        past.work(100)
        assert past.tokens == sum(len(data) // 4 for _, data, _ in past._answers.values()) <= 12
        known = {(number, salt) for number, (salt, _, _) in past._answers.items()}
        places = [(number, s) for s, runs in past._places.items() for found in runs.values() for number, _ in found]
        assert set(places) <= known
        assert all(0 < len(found) <= TRIED for runs in past._places.values() for found in runs.values())
        assert set(past._numbers.values()) == set(past._answers)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 2), max_size=8), st.integers(0, 6)), max_size=12)
)
def test_what_waits_is_not_found_and_comes_in_turn(added: list[tuple[str, list[int], int]]) -> None:
    past = PastAnswers(12)
    for salt, answer, tokens in added:
        past.add(salt, np.array([2, 1]), np.array(answer, dtype=np.int64))
        before = past.waiting
        past.work(tokens)
        assert past.waiting == max(before - tokens, 0) == sum(change.left for change in past._changes)
        for run in ([a, b] for a in range(3) for b in range(3)):
            key = np.array(run, dtype=np.int32).tobytes()
            for place in past.places(salt, key):  # of answers that are there
                assert place.data[(place.end - RUN) * 4 : place.end * 4] == key
                assert (salt, bytes(place.data)) in past._numbers
    past.work(1000)
    known = {(number, salt) for number, (salt, _, _) in past._answers.items()}
    assert {(n, s) for s, runs in past._places.items() for found in runs.values() for n, _ in found} <= known
    assert not past._changes


def test_a_long_answer_is_entered_and_dropped_over_several_steps() -> None:
    length = 16 * ENTERED
    made = drafter(max_cached_tokens=length + 10)
    text = sequence("a", list(range(length)))
    counts = []
    end(made, text)
    for _ in range(18):
        counts.append(sum(len(runs) for runs in made._past._places.values()))
        propose(made, sequence("b", [1, 2, 3]))
    assert counts[:3] == [ENTERED, 2 * ENTERED, 3 * ENTERED]
    assert counts[-1] == length - RUN
    assert propose(made, sequence("c", [length - 9, length - 8], prompt=2)) == [[length - 7, length - 6]]
    end(made, sequence("d", [*range(length, length + 20)]))  # drops the other one
    assert propose(made, sequence("e", [length - 9, length - 8], prompt=2)) == [[]]
    for _ in range(20):
        propose(made, sequence("b", [1, 2, 3]))
    assert sum(len(runs) for runs in made._past._places.values()) == 18


def test_answers_that_come_faster_than_they_are_entered_are_left_out() -> None:
    past = PastAnswers(100)
    for start in range(0, 100_000, 50):
        past.add("", np.array([], dtype=np.int64), np.arange(start, start + 50))
    assert past.waiting <= 2 * 100 + 100


def test_the_same_answer_is_kept_once() -> None:
    past = PastAnswers(100)
    for _ in range(3):
        past.add("", np.array([9, 9]), np.array([1, 2, 3]))
    assert (len(past), past.tokens) == (1, 5)
    past.add("", np.array([9, 9]), np.array([], dtype=np.int64))
    assert len(past) == 1


def test_a_step_of_many_long_texts_takes_milliseconds() -> None:
    made = drafter(max_cached_tokens=100_000)
    random = np.random.default_rng(0)
    texts = [random.integers(0, 30, 2000) for _ in range(256)]
    end(made, *(sequence(f"past {i}", text[:300].tolist()) for i, text in enumerate(texts)))
    propose(made, *(sequence(str(i), text.tolist()) for i, text in enumerate(texts)))
    took = []
    for more in range(1, 6):
        each = [sequence(str(i), [*text.tolist(), *text[:more].tolist()]) for i, text in enumerate(texts)]
        begun = time.process_time()
        propose(made, *each)
        took.append(time.process_time() - begun)
    assert min(took) / 256 < 250e-6, "seconds a sequence; some 30 on an idle machine"


def test_the_settings_are_options() -> None:
    found = LLM(speculative_method="suffix", suffix__max_cached_tokens=5000)
    assert found._sections[SuffixSettings].max_cached_tokens == 5000
    with pytest.raises(SettingsError, match="min_token_prob"):
        LLM(speculative_method="suffix", suffix__min_token_prob=1.5)
    with pytest.raises(SettingsError, match=r"--suffix.max-spec-factor means nothing with --speculative-method ngram"):
        LLM(speculative_method="ngram", suffix__max_spec_factor=2.0)
    assert RUN == 2
