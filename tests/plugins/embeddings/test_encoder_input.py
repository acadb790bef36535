"""Texts as encoders take them: special tokens, prompts, pairs, and what is too long."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from maxserve.core.interfaces.engine import ModelInfo, VectorInfo
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.tokenizer import Tokenizer, Truncation, TruncationSide
from maxserve.plugins.embeddings.encoder_input import EncoderInputs, Input, encode_request
from maxserve.plugins.tokenizers.folder import load_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query", ":", *"abcdefgh"]
IDS = {word: number for number, word in enumerate(WORDS)}
CLS, SEP = IDS["[CLS]"], IDS["[SEP]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of words, which marks texts and pairs as BERT's does."""
    made = Backend(models.WordLevel(IDS, unk_token="[UNK]"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.enable_truncation(4)  # as some folders have it; it must not be heeded
    path: Path = tmp_path_factory.mktemp("words")
    made.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


def inputs(tokenizer: Tokenizer, *, max_length: int = 10, **vectors: Any) -> EncoderInputs:
    info = ModelInfo(
        name="m",
        path="",
        architecture="M",
        max_length=max_length,
        vocab_size=len(WORDS),
        eos_token_ids=(),
        dtype="float32",
        device="cpu",
        parameters=0,
        max_batch_size=8,
        created=0,
        vectors=VectorInfo(**vectors),
    )
    return EncoderInputs(tokenizer, info)


def ids(*words: str) -> tuple[int, ...]:
    return tuple(IDS[word] for word in words)


def test_texts_and_pairs_get_their_special_tokens(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer)
    assert made.text("a b", "input") == Input((CLS, *ids("a", "b"), SEP))
    assert made.pair("a b", "c", "input") == Input((CLS, *ids("a", "b"), SEP, *ids("c"), SEP), 4)
    assert made.ids([5, 6], "input") == Input((5, 6))


@pytest.mark.parametrize("second", [None, "a b", "a b c d e f g h a b", ""])
@pytest.mark.parametrize("first", ["a", "a b c", "a b c d e f g h"])
@pytest.mark.parametrize("most", [4, 5, 6, 7, 8, 9, 20])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_cut_is_what_transformers_cuts(
    folder: Path, tokenizer: Tokenizer, first: str, second: str | None, most: int, side: TruncationSide
) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), truncation_side=side)
    pairs = None if second is None else [second]  # in a list, since a lone empty text would count as none
    expected = theirs([first], pairs, truncation="longest_first", max_length=most, return_token_type_ids=True)
    found, start = tokenizer.encode_input(first, second, truncation=Truncation(most, side))
    assert found == expected["input_ids"][0]
    types = expected["token_type_ids"][0]
    assert start == (types.index(1) if 1 in types else 0)


def test_types_are_told_to_models_that_want_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    for names, second in ((["input_ids", "token_type_ids"], 3), (["input_ids", "attention_mask"], 0)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_input_names": names}))
        assert load_tokenizer(str(tmp_path)).encode_input("a", "b")[1] == second


def test_what_is_too_long_is_refused_by_name_or_cut(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer, max_length=4)
    for call in (lambda: made.text("a b c", "input[7]"), lambda: made.ids([5] * 5, "input[7]")):
        with pytest.raises(
            RequestError, match=re.escape("input[7]: the text has 5 tokens, and this model takes 4")
        ) as e:
            call()
        assert (e.value.param, e.value.code) == ("input[7]", "context_length_exceeded")
    assert made.text("a b c", "input", truncation=made.truncation(-1)).ids == (CLS, *ids("a", "b"), SEP)
    assert made.ids([5, 6, 7, 8, 9], "input", truncation=made.truncation(3)).ids == (5, 6, 7)


def test_the_side_that_is_cut(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer, max_length=4)
    assert made.text("a b c", "input", truncation=made.truncation(4, "left")).ids == (CLS, *ids("b", "c"), SEP)
    assert made.ids([5, 6, 7, 8, 9], "input", truncation=made.truncation(3, "left")).ids == (7, 8, 9)
    assert made.text("a b", "input", truncation=Truncation(2), add_special_tokens=False).ids == ids("a", "b")


def test_a_long_text_is_encoded_only_as_far_as_it_matters(tokenizer: Tokenizer) -> None:
    text = "a " * 200_000 + "b"
    assert tokenizer.encode_input(text, truncation=Truncation(4))[0] == [CLS, *ids("a", "a"), SEP]
    assert tokenizer.encode_input(text, truncation=Truncation(4, "left"))[0] == [CLS, *ids("a", "b"), SEP]


@pytest.mark.parametrize(("most", "kept"), [(1, "a"), (2, "a  b"), (3, "a  b c"), (9, "a  b c")])
def test_a_text_up_to_one_of_its_tokens(tokenizer: Tokenizer, most: int, kept: str) -> None:
    assert tokenizer.cut_text("a  b c", most) == kept


def test_texts_that_no_model_holds_are_not_looked_at(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="characters, which is at least"):
        inputs(tokenizer).text("a " * 100_000, "input")


def test_limits_of_cutting(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer, max_length=4)
    assert made.truncation(None) is None
    for wanted in (0, -2, 5):
        with pytest.raises(RequestError, match=f"truncate_prompt_tokens is {wanted}; -1, or 1 to 4, is expected"):
            made.truncation(wanted)
    with pytest.raises(RequestError, match="less than the special tokens of a text; 2 is the least"):
        made.text("a b", "input", truncation=Truncation(1))


def test_empty_texts_and_unknown_ids_are_refused(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer)
    with pytest.raises(RequestError, match=re.escape("input[0]: the text has no tokens")):
        made.ids([], "input[0]")
    with pytest.raises(RequestError, match=re.escape("input: token id 99 is outside the vocabulary of 14 tokens")):
        made.ids([1, 99], "input")
    with pytest.raises(RequestError, match="not valid Unicode"):
        made.text("\ud800", "input")


def test_prompts(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer, prompts={"query": "query: ", "document": ""}, default_prompt="query")
    assert made.prompt(None) == made.prompt("query") == "query: "
    assert made.prompt("document") == ""
    assert made.text("a", "input", prompt=made.prompt(None)).ids == (CLS, *ids("query", ":", "a"), SEP)
    assert made.skipped("query: ") == 0
    with pytest.raises(RequestError, match="no prompt 'poem'; it has document, query"):
        made.prompt("poem")
    assert inputs(tokenizer).prompt(None) == ""


def test_prompts_that_are_not_pooled_are_counted(tokenizer: Tokenizer) -> None:
    made = inputs(tokenizer, prompts={"query": "query: "}, include_prompt=False)
    assert made.skipped("query: ") == 3  # the first special token counts, as in sentence-transformers
    assert made.skipped("") == 0


def test_lower_case_where_the_folder_wants_it(tokenizer: Tokenizer) -> None:
    assert inputs(tokenizer, lower=True).text("A B", "input").ids == (CLS, *ids("a", "b"), SEP)
    assert inputs(tokenizer).text("A", "input").ids == (CLS, IDS["[UNK]"], SEP)


def test_requests_say_where_second_parts_begin() -> None:
    plain, pair = Input((1, 2)), Input((1, 2, 3), 2)
    assert encode_request("a", [plain, plain]).pair_starts == ()
    assert encode_request("a", [plain, pair], 3).pair_starts == (0, 2)
    assert encode_request("a", [plain, pair], 3).prompt_prefix == 3
