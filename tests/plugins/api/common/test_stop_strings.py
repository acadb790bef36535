"""Where stop strings end a text, against a plain search in the whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.detokenizer import Detokenizer
from maxserve.plugins.api.common.stop_strings import StopStrings
from maxserve.plugins.tokenizers.folder import load_tokenizer
from tests.plugins.tokenizers.conftest import folder, tokenizer_folders  # noqa: F401 (fixtures)

S = TypeVar("S", str, list[int])


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:  # noqa: F811
    return load_tokenizer(str(folder))


def expected_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop that starts first (the shorter of two), found in the whole text."""
    found = [(position, len(stop), stop) for stop in stops if (position := text.find(stop)) >= 0]
    if not found:
        return text, None
    position, _, stop = min(found)
    return text[:position], stop


cuts = st.lists(st.integers(0, 40), max_size=12)
few = st.text(alphabet="aab. ", max_size=24)  # of few letters, so that stops are met


def cut(whole: S, places: Sequence[int]) -> list[S]:
    """`whole` in pieces, some of them empty."""
    ends = sorted(min(place, len(whole)) for place in places)
    return [whole[start:end] for start, end in pairwise([0, *ends, len(whole)])]


@given(text=few, stops=st.lists(few.filter(bool), max_size=4), cuts=cuts, include=st.booleans())
@settings(deadline=None, max_examples=1000)
def test_stops_end_any_text_where_the_first_one_starts(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    stop_strings = StopStrings(stops, include=include)
    shown = "".join(stop_strings.feed(piece) for piece in cut(text, cuts)) + stop_strings.flush()
    before, matched = expected_stop(text, stops)
    assert stop_strings.matched == matched
    assert shown == before + (matched or "" if include else "")


@given(data=st.data(), numbers=st.lists(st.integers(0, 400), max_size=40), cuts=cuts)
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
def test_stops_taken_from_the_text_of_any_tokens(
    tokenizer: Tokenizer, data: st.DataObject, numbers: list[int], cuts: list[int]
) -> None:
    """A stop string that the whole text has somewhere, however its tokens are cut."""
    ids = [number % tokenizer.vocab_size for number in numbers]
    whole = tokenizer.decode(ids)
    start = data.draw(st.integers(0, len(whole)))
    stop = whole[start : start + data.draw(st.integers(1, 6))] or "never"
    detokenizer, stops = Detokenizer(tokenizer), StopStrings([stop])
    shown = "".join(stops.feed(detokenizer.add(piece)) for piece in cut(ids, cuts))
    shown += stops.feed(detokenizer.finish()) + stops.flush()
    assert shown == whole.partition(stop)[0]


def test_only_what_may_start_a_stop_is_held_back() -> None:
    stops = StopStrings(["END", "\n\n"])
    assert stops.feed("The E") == "The "
    assert stops.feed("N") == ""
    assert stops.feed("ERGY\n") == "ENERGY"
    assert stops.feed("E") == "\n"
    assert stops.flush() == "E"
    assert stops.matched is None


def test_nothing_follows_a_stop() -> None:
    stops = StopStrings(["END"], include=True)
    assert stops.feed("The END of it") == "The END"
    assert stops.matched == "END"
    assert stops.feed("more") == ""
    assert stops.flush() == ""


def test_a_stop_waits_for_one_that_began_earlier() -> None:
    stops = StopStrings(["bc", "abcd"])
    assert stops.feed("xabc") == "x"
    assert stops.matched is None
    assert stops.feed("!") == "a"
    assert stops.matched == "bc"
    unfinished = StopStrings(["bc", "abcd"])
    assert unfinished.feed("xabc") + unfinished.flush() == "xa"
    assert unfinished.matched == "bc"


def test_without_stops_everything_passes() -> None:
    stops = StopStrings([])
    assert stops.feed("anything") == "anything"
    assert stops.flush() == ""


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopStrings([""])


def test_stops_across_tokens_end_the_text_of_a_stream(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one fish two fish. red fish blue fish.", add_special_tokens=False)
    whole = tokenizer.decode(ids)
    for stop in ["two", "fish.", "sh. re", "fish b", "nowhere"]:
        detokenizer, stops = Detokenizer(tokenizer), StopStrings([stop])
        shown = "".join(stops.feed(detokenizer.add([i])) for i in ids)
        shown += stops.feed(detokenizer.finish()) + stops.flush()
        assert shown == whole.partition(stop)[0]
