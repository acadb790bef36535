"""Prompt lookup: what it proposes, and that texts are those without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxserve.config import Settings
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.speculation.histories import INDEXED
from maxserve.plugins.speculation.ngram import TRIED, NgramDrafter, NgramHistory
from maxserve.plugins.speculation.options import NgramSettings, check_ngram
from maxserve.testing.speculator import SpeculatorChecks


class TestNgram(SpeculatorChecks):
    speculator = "ngram"


def history(tokens: list[int], longest: int = 3, shortest: int = 2) -> NgramHistory:
    found = NgramHistory(longest, shortest)
    found.read(np.array(tokens, dtype=np.int64))
    return found


def expected(tokens: list[int], longest: int, shortest: int, most: int) -> list[int]:
    """By trying all places."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) > size and tokens[end - size : end] == tokens[-size:]:
                found = tokens[end:][:most]
                return [found[i % len(found)] for i in range(most)]
    return []


@pytest.mark.parametrize(
    ("tokens", "drafts"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9, 1]),
        ([1, 2, 3, 9, 1, 2, 4, 8, 1, 2], [4, 8, 1, 2]),  # the latest
        ([7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2], [3, 9, 1, 2]),  # the longest
        ([5, 5, 5], [5, 5, 5, 5]),  # a loop goes on
        ([1, 2, 1, 2], [1, 2, 1, 2]),
        ([1, 2, 3, 4], []),
        ([1], []),
        ([1, 1], []),  # one token is not enough
    ],
)
def test_what_followed_is_proposed(tokens: list[int], drafts: list[int]) -> None:
    assert history(tokens).continuation(4) == drafts


@given(
    st.lists(st.integers(0, 3), max_size=TRIED),
    st.lists(st.integers(1, 5), max_size=6),
    st.sampled_from([(1, 1), (4, 2)]),
)
def test_the_index_finds_what_a_search_finds(tokens: list[int], pieces: list[int], sizes: tuple[int, int]) -> None:
    found, read = NgramHistory(*sizes), 0
    for piece in [*pieces, len(tokens)]:
        read = min(read + piece, len(tokens))
        found.read(np.array(tokens[:read], dtype=np.int64))
        assert found.continuation(3) == expected(tokens[:read], *sizes, 3)


def test_of_a_long_prompt_the_end_is_indexed() -> None:
    tokens = [1, 2, 3, *range(10, 10 + INDEXED), 1, 2]
    found = history(tokens)
    assert found.length == len(tokens)
    assert found.continuation(2) == []
    found.read(np.array([*tokens, 10, 11, 12, 10, 11], dtype=np.int64))
    assert found.continuation(2) == [12, 10]


def drafter() -> Any:
    made: Any = NgramDrafter(SimpleNamespace(config=lambda schema: schema()))  # type: ignore[arg-type]
    return made


def step(*sequences: tuple[str, list[int]], wanted: int = 2, kept: int = 1) -> Any:
    each = [SimpleNamespace(id=id, tokens=np.array(tokens, dtype=np.int64)) for id, tokens in sequences]
    count = len(each)
    return SimpleNamespace(
        sequences=each, wanted=np.full(count, wanted, dtype=np.int64), kept=np.full(count, kept, dtype=np.int64)
    )


def test_sequences_do_not_look_into_each_other() -> None:
    made = drafter()
    assert made.propose(step(("a", [1, 2, 3, 1, 2]), ("b", [1, 2]))) == [[3, 1], []]
    assert made.propose(step(("b", [1, 2, 9, 1, 2]), ("a", [1, 2, 3, 1, 2, 3]))) == [[9, 1], [1, 2]]


def test_an_id_that_is_used_again_begins_anew() -> None:
    made = drafter()
    made.propose(step(("a", [1, 2, 3, 1, 2])))
    assert made.propose(step(("a", [4, 5, 6, 4, 5]))) == [[6, 4]]


def test_nothing_is_read_where_nothing_is_wanted() -> None:
    made = drafter()
    assert made.propose(step(("a", [1, 2, 3, 1, 2]), wanted=0)) == [[]]
    assert not list(made._histories)


def test_the_shortest_run_is_not_longer_than_the_longest() -> None:
    with pytest.raises(SettingsError, match=r"--ngram.prompt-lookup-min 6 is more than --ngram.prompt-lookup-max 5"):
        check_ngram(Settings(), NgramSettings(prompt_lookup_min=6))
