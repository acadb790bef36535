from __future__ import annotations

import random
from pathlib import Path

import pytest

from maxserve.core.text.detokenizer import Detokenizer, StopStrings
from maxserve.core.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(str(folder))


@pytest.fixture(scope="module")
def fallback(tokenizer_folders: dict[str, Path]) -> Tokenizer:
    return Tokenizer.load(str(tokenizer_folders["byte_fallback"]))


def cut(ids: list[int], rng: random.Random) -> list[list[int]]:
    """`ids` in random pieces, empty ones among them."""
    pieces = []
    while ids:
        size = rng.choice([0, 1, 1, 1, 2, 3, 7])
        pieces.append(ids[:size])
        ids = ids[size:]
    return pieces


def pieces_of(detokenizer: Detokenizer, chunks: list[list[int]]) -> list[str]:
    return [*[detokenizer.add(chunk) for chunk in chunks], detokenizer.finish()]


@pytest.mark.parametrize("skip", [True, False])
def test_pieces_of_random_tokens_make_up_the_whole_text(tokenizer: Tokenizer, skip: bool) -> None:
    rng = random.Random(1)
    for _ in range(400):
        ids = [rng.randrange(-1, tokenizer.vocab_size + 3) for _ in range(rng.randrange(40))]
        pieces = pieces_of(Detokenizer(tokenizer, skip_special_tokens=skip), cut(ids, rng))
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_pieces_of_text_make_up_the_text_and_never_show_half_a_character(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=True)
        pieces = pieces_of(Detokenizer(tokenizer), [[token] for token in ids])
        assert "".join(pieces) == tokenizer.decode(ids)
        # The added token é<x> stands for a broken byte, which is shown as such.
        assert "".join(pieces).count("\ufffd") == ("é<x>" in text and tokenizer.joins_bytes)


def test_a_prompt_keeps_the_leading_space(tokenizer: Tokenizer) -> None:
    rng = random.Random(2)
    for _ in range(300):
        prompt = tokenizer.encode("Hello world fish", add_special_tokens=True)[: rng.randrange(1, 9)]
        ids = tokenizer.encode("One fish. It's 日本語 😀!", add_special_tokens=False)[: rng.randrange(30)]
        pieces = pieces_of(Detokenizer(tokenizer, prompt=prompt), cut(ids, rng))
        assert tokenizer.decode(prompt) + "".join(pieces) == tokenizer.decode(prompt + ids)


def test_a_prompt_may_end_in_the_middle_of_a_character(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(str(tokenizer_folders["byte_level"]))
    ids = [i for byte in "a😀b".encode() if (i := byte_id(tokenizer, byte)) is not None]
    detokenizer = Detokenizer(tokenizer, prompt=ids[:3])
    assert [detokenizer.add([i]) for i in ids[3:]] == ["", "😀", "b"]


def byte_id(tokenizer: Tokenizer, byte: int) -> int | None:
    return next((i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([byte])), None)


def test_text_comes_as_soon_as_it_is_certain(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(str(tokenizer_folders["byte_level"]))
    detokenizer = Detokenizer(tokenizer)
    for i in tokenizer.encode("fish two fish", add_special_tokens=False):
        assert detokenizer.add([i]) != ""


def test_unfinished_characters_show_as_broken_at_the_end(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(str(tokenizer_folders["byte_level"]))
    start = byte_id(tokenizer, 0xF0)
    assert start is not None
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add([start]) == ""
    assert detokenizer.finish() == "\ufffd"


def bytes_to_ids(tokenizer: Tokenizer, content: bytes) -> list[int]:
    found = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in content]
    return [i for i in found if i is not None]


def test_byte_runs_are_shown_as_the_whole_run_is(fallback: Tokenizer) -> None:
    word = fallback.encode("fish", add_special_tokens=False)
    good, bad = bytes_to_ids(fallback, "😀".encode()), bytes_to_ids(fallback, b"\xe2\x82\xac\xff")
    detokenizer = Detokenizer(fallback)
    assert "".join(detokenizer.add([i]) for i in [*word, *good]) == "fish"
    assert "".join(detokenizer.add([i]) for i in [*word, *bad, *word]).startswith("😀 fish\ufffd\ufffd\ufffd\ufffd")
    assert detokenizer.finish() == ""


def test_long_byte_runs_do_not_wait_for_their_end(fallback: Tokenizer) -> None:
    text = "ትግርኛ ነው " * 60
    ids = bytes_to_ids(fallback, text.encode())
    detokenizer = Detokenizer(fallback)
    pieces = [detokenizer.add([i]) for i in ids]
    assert len([piece for piece in pieces if piece]) > 10
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.finish() == text


def test_the_work_per_token_does_not_grow(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    decode = Tokenizer.decode

    def counted(self: Tokenizer, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        lengths.append(len(ids))
        return decode(self, ids, skip_special_tokens=skip_special_tokens)

    monkeypatch.setattr(Tokenizer, "decode", counted)
    rng = random.Random(3)
    detokenizer = Detokenizer(tokenizer)
    for _ in range(3000):
        detokenizer.add([rng.randrange(tokenizer.vocab_size)])
    assert max(lengths, default=0) < 400
    assert sum(lengths) < 3000 * 60


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
