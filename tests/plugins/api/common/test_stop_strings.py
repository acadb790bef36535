from __future__ import annotations

import random
from pathlib import Path

import pytest

from maxserve.core.text.detokenizer import Detokenizer
from maxserve.core.text.tokenizer import Tokenizer
from maxserve.plugins.api.common.stop_strings import StopStrings
from tests.core.text.conftest import folder, tokenizer_folders  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:  # noqa: F811
    return Tokenizer.load(str(folder))


def expected_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop that starts first (the shorter of two), found in the whole text."""
    found = [(position, len(stop), stop) for stop in stops if (position := text.find(stop)) >= 0]
    if not found:
        return text, None
    position, _, stop = min(found)
    return text[:position], stop


@pytest.mark.parametrize("include", [False, True])
def test_stops_end_random_text_where_the_first_one_starts(include: bool) -> None:
    rng = random.Random(4)
    for _ in range(5000):
        text = "".join(rng.choice("aab. ") for _ in range(rng.randrange(24)))
        stops = ["".join(rng.choice("aab. ") for _ in range(rng.randrange(1, 6))) for _ in range(rng.randrange(4))]
        stop_strings = StopStrings(stops, include=include)
        shown = ""
        rest = text
        while rest:
            size = rng.randrange(1, 5)
            shown += stop_strings.feed(rest[:size])
            rest = rest[size:]
        shown += stop_strings.flush()
        before, matched = expected_stop(text, stops)
        assert stop_strings.matched == matched
        assert shown == before + (matched or "" if include else "")


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
