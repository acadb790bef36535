"""Text of a stream, against the text of the whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.detokenizer import Detokenizer
from maxserve.plugins.tokenizers.folder import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def fallback(tokenizer_folders: dict[str, Path]) -> Tokenizer:
    return load_tokenizer(str(tokenizer_folders["byte_fallback"]))


THOROUGH = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))

cuts = st.lists(st.integers(0, 40), max_size=12)
numbers = st.lists(st.integers(-1, 400), max_size=40)  # taken modulo the size of a vocabulary, and a little more


def cut(whole: list[int], indices: Sequence[int]) -> list[list[int]]:
    """`whole` in pieces, some of them empty."""
    ends = sorted(min(index, len(whole)) for index in indices)
    return [whole[start:end] for start, end in pairwise([0, *ends, len(whole)])]


def ids_of(tokenizer: Tokenizer, numbers: Sequence[int]) -> list[int]:
    """Ids of all kinds: of tokens, and a few that no token has."""
    return [number if number < 0 else number % (tokenizer.vocab_size + 3) for number in numbers]


def pieces_of(detokenizer: Detokenizer, chunks: list[list[int]]) -> list[str]:
    return [*[detokenizer.add(chunk) for chunk in chunks], detokenizer.finish()]


@given(numbers=numbers, cuts=cuts, skip=st.booleans())
@THOROUGH
def test_pieces_of_any_tokens_make_up_the_whole_text(
    tokenizer: Tokenizer, numbers: list[int], cuts: list[int], skip: bool
) -> None:
    ids = ids_of(tokenizer, numbers)
    pieces = pieces_of(Detokenizer(tokenizer, skip_special_tokens=skip), cut(ids, cuts))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(text=st.text(max_size=30), cuts=cuts)
@THOROUGH
def test_pieces_of_any_text_never_show_half_a_character(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    ids = tokenizer.encode(text.encode(errors="ignore").decode(), add_special_tokens=False)
    whole = tokenizer.decode(ids)
    pieces = pieces_of(Detokenizer(tokenizer), cut(ids, cuts))
    assert "".join(pieces) == whole
    assert "".join(pieces).count("\ufffd") == whole.count("\ufffd")


def test_pieces_of_text_make_up_the_text_and_never_show_half_a_character(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=True)
        pieces = pieces_of(Detokenizer(tokenizer), [[token] for token in ids])
        assert "".join(pieces) == tokenizer.decode(ids)
        # The added token é<x> stands for a broken byte, which is shown as such.
        assert "".join(pieces).count("\ufffd") == ("é<x>" in text and tokenizer.joins_bytes)


@given(length=st.integers(1, 8), more=st.integers(0, 30), cuts=cuts)
@THOROUGH
def test_a_prompt_keeps_the_leading_space(tokenizer: Tokenizer, length: int, more: int, cuts: list[int]) -> None:
    prompt = tokenizer.encode("Hello world fish", add_special_tokens=True)[:length]
    ids = tokenizer.encode("One fish. It's 日本語 😀!", add_special_tokens=False)[:more]
    pieces = pieces_of(Detokenizer(tokenizer, prompt=prompt), cut(ids, cuts))
    assert tokenizer.decode(prompt) + "".join(pieces) == tokenizer.decode(prompt + ids)


def test_a_prompt_may_end_in_the_middle_of_a_character(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["byte_level"]))
    ids = [i for byte in "a😀b".encode() if (i := byte_id(tokenizer, byte)) is not None]
    detokenizer = Detokenizer(tokenizer, prompt=ids[:3])
    assert [detokenizer.add([i]) for i in ids[3:]] == ["", "😀", "b"]


def byte_id(tokenizer: Tokenizer, byte: int) -> int | None:
    return next((i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([byte])), None)


def test_text_comes_as_soon_as_it_is_certain(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["byte_level"]))
    detokenizer = Detokenizer(tokenizer)
    for i in tokenizer.encode("fish two fish", add_special_tokens=False):
        assert detokenizer.add([i]) != ""


def test_unfinished_characters_show_as_broken_at_the_end(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["byte_level"]))
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
