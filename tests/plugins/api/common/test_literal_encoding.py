"""Special tokens that are spelled out in a prompt, and are not."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Tokens
from transformers import AutoTokenizer

from maxserve.plugins.api.common.literal_encoding import LiteralEncoder, PromptEncoder, PromptText
from maxserve.plugins.tokenizers.backed import BackedTokenizer
from maxserve.plugins.tokenizers.folder import _PythonBackend

SPECIAL = ("<s>", "</s>")
PIECES = ["<s>", "</s>", "hi", " ", "\n", "<", "s>", "there ", "é日", "<think>", "x<s", ">", "two words", "_"]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def load(folder: Path) -> tuple[Tokens, LiteralEncoder]:
    tokens = Tokens.from_file(str(folder / "tokenizer.json"))
    return tokens, LiteralEncoder(tokens)


def plain_ids(tokens: Tokens, text: str) -> list[int]:
    """Where no special token counts: what the library itself has for that."""
    tokens.encode_special_tokens = True
    try:
        return list(tokens.encode(text, add_special_tokens=False).ids)
    finally:
        tokens.encode_special_tokens = False


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
@pytest.mark.parametrize("family", ["byte_level", "byte_fallback", "unigram", "word_piece"])
def test_where_nothing_is_literal_the_tokens_are_the_same(
    tokenizer_folders: dict[str, Path], family: str, pieces: list[str]
) -> None:
    tokens, encoder = load(tokenizer_folders[family])
    text = "".join(pieces)
    assert encoder.encode(text, ()) == tokens.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("flags", list(itertools.product((False, True), repeat=4)))
@pytest.mark.parametrize("normalizer", [None, normalizers.Lowercase(), normalizers.Prepend("▁"), normalizers.NFKC()])
def test_flags_of_special_tokens(tokenizer_folders: dict[str, Path], flags: tuple[bool, ...], normalizer: Any) -> None:
    tokens = Tokens.from_file(str(tokenizer_folders["byte_level"] / "tokenizer.json"))
    if normalizer is not None:
        tokens.normalizer = normalizer
    options = dict(zip(FLAGS, flags, strict=True))
    tokens.add_special_tokens([AddedToken("<|end|>", **options), AddedToken("[ÉND]", **options)])
    encoder = LiteralEncoder(tokens)
    for text in ("a <|end|> b", "a<|end|>b", "<|end|>", "x [ÉND]\n<|end|> <|end|>y", "[ÉND]", "hi <|END|> [énd] Ab"):
        assert encoder.encode(text, ()) == tokens.encode(text, add_special_tokens=False).ids, (text, options)


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback", "word_piece"])
def test_the_text_of_a_special_token_is_text(tokenizer_folders: dict[str, Path], family: str) -> None:
    tokens, encoder = load(tokenizer_folders[family])
    for text in ("<s>", "a<s>b", "a <s> b</s>", "x</s>\n<s>y", "<s><s>"):
        literal = [start for start, _ in encoder.spans(text)]
        assert len(literal) == text.count("<s>") + text.count("</s>")
        found = encoder.encode(text, literal)
        assert found == plain_ids(tokens, text)
        assert not {tokens.token_to_id(special) for special in SPECIAL} & set(found)


def metaspace_first() -> Tokens:
    """Like newer Llamas of sentencepiece: a space before the first word of a text, and of that alone."""
    trained = Tokens(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", *SPECIAL], show_progress=False)
    trained.train_from_iterator(["hi there two words", "x s", "<s> é日 _"] * 4, trainer)
    trained.add_tokens([AddedToken("<think>")])
    return trained


def whole_words() -> Tokens:
    """Like Llama 3: words of the vocabulary are taken whole, a regex parts words, numbers and marks."""
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, "hi", "Ġthere", "<s", "</s>"])}
    tokens = Tokens(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    split = pre_tokenizers.Split(pattern, behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokens.add_special_tokens(list(SPECIAL))
    return tokens


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.tuples(st.booleans(), st.sampled_from(PIECES)), max_size=8))
@example(pieces=[(False, "<s>"), (False, "<"), (False, "s>")])  # one that counts lies across two pieces
@pytest.mark.parametrize("make", [metaspace_first, whole_words])
def test_each_piece_is_encoded_as_in_its_place(make: Any, pieces: list[tuple[bool, str]]) -> None:
    """As ever where nothing is literal, and in the library's own way where no special token counts."""
    tokens = make()
    encoder = LiteralEncoder(tokens)
    text, literal = "", []
    for own, piece in pieces:
        if not own:
            literal += [len(text) + start for start, _ in encoder.spans(piece)]
        text += piece
    found = encoder.encode(text, literal)
    assert sum(found.count(tokens.token_to_id(special)) for special in SPECIAL) <= text.count("s>")
    if not literal:
        assert found == tokens.encode(text, add_special_tokens=False).ids
    elif all(start in literal for start, _ in encoder.spans(text)):  # none of our own, nor any across two pieces
        assert found == plain_ids(tokens, text)


def test_own_tokens_beside_literal_text(tokenizer_folders: dict[str, Path]) -> None:
    tokens, encoder = load(tokenizer_folders["byte_level"])
    begin, end = (tokens.token_to_id(special) for special in SPECIAL)
    assert encoder.encode("<s>a<s>b</s>", [4]) == [begin, *plain_ids(tokens, "a<s>b"), end]
    think = tokens.token_to_id("<think>")
    assert encoder.encode("<s><s><think>", [3]) == [begin, *plain_ids(tokens, "<s>"), think]


def test_spelling_that_is_in_the_vocabulary_itself(tokenizer_folders: dict[str, Path]) -> None:
    """Unigram has "<s>" as a piece: plain text would become it."""
    tokens, encoder = load(tokenizer_folders["unigram"])
    begin = tokens.token_to_id("<s>")
    assert begin in plain_ids(tokens, "a<s>")
    found = encoder.encode("<s>a<s>b", [4])
    assert found.count(begin) == 1
    assert found[0] == begin
    assert "<" in tokens.decode(found[1:], skip_special_tokens=False)


def test_a_character_that_is_a_special_token_of_the_vocabulary_stays_one() -> None:
    tokens = Tokens(models.Unigram([("<unk>", 0.0), ("§", -1.0), ("a", -1.0)], unk_id=0))
    tokens.add_special_tokens(["§"])
    assert LiteralEncoder(tokens).encode("a§", [1]) == [2, 1]


def test_unknown_characters_are_no_spelling() -> None:
    tokens = Tokens(models.WordLevel({"<unk>": 0, "a": 1, "<s>": 2}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    tokens.add_special_tokens(["<unk>", "<s>"])
    assert LiteralEncoder(tokens).encode("a <s> é", [2]) == [1, 0, 0, 0]


def test_vocabularies_with_gaps() -> None:
    tokens = Tokens(models.WordLevel({"a": 1, "b": 40, "<unk>": 7}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    tokens.add_tokens(["<tool>"])
    tokens.add_special_tokens(["<s>"])
    text = "<s>a <tool>b <s>"
    encoder = LiteralEncoder(tokens)
    assert encoder.encode(text, ()) == tokens.encode(text, add_special_tokens=False).ids
    assert encoder.encode(text, [14])[:4] == tokens.encode(text, add_special_tokens=False).ids[:4]


def test_a_tokenizer_that_splits_all_special_tokens(tokenizer_folders: dict[str, Path]) -> None:
    tokens, _ = load(tokenizer_folders["byte_level"])
    expected = plain_ids(tokens, "<s>a")
    tokens.encode_special_tokens = True
    encoder = LiteralEncoder(tokens)
    assert encoder.spans("<s>a") == []
    assert encoder.encode("<s>a", [0]) == expected


def test_tokenizers_of_python(tokenizer_folders: dict[str, Path]) -> None:
    reference: Any = AutoTokenizer.from_pretrained(tokenizer_folders["byte_level"])
    tokenizer = BackedTokenizer(_PythonBackend(copy.deepcopy(reference)), {})
    prompt = PromptText("<s>a</s>b<s>", (5,))
    prompts = PromptEncoder(tokenizer)
    found = prompts.encode(prompt)
    begin = reference.convert_tokens_to_ids("<s>")
    assert reference.convert_tokens_to_ids("</s>") not in found
    assert found.count(begin) == 2
    assert reference.decode(found) == prompt.text
    assert prompts.special_spans("a<s>") == [(1, 4)]
    assert prompts.special_spans("a") == []


@pytest.mark.parametrize(
    ("text", "literal", "pieces"),
    [
        ("a<i>b<i>c", (), [("a", ()), ("b", ()), ("c", ())]),
        ("a<i>b<i>c", (6,), [("a", ()), ("b<i>c", (2,))]),
        ("a<i>b<i>c", (2, 5), [("a<i>b<i>c", (2, 5))]),
        ("<i>", (), [("", ()), ("", ())]),
        ("<<i>", (0,), [("<", (0,)), ("", ())]),
        ("", (), [("", ())]),
    ],
)
def test_pieces_between_separators_that_are_no_clients_text(
    text: str, literal: tuple[int, ...], pieces: list[tuple[str, tuple[int, ...]]]
) -> None:
    prompt = PromptText(text, literal)
    found = prompt.split("<i>")
    assert [(piece.text, piece.literal) for piece in found] == pieces
    assert prompt.holds("<i>") is (len(pieces) > 1)


def test_pieces_joined_again() -> None:
    prompt = PromptText("a<i>b<i>c", (6, 8))
    first, second = prompt.split("<i>")
    whole = PromptText.join([first, PromptText("<i>"), second])
    assert whole == prompt
