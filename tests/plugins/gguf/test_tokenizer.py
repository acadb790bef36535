"""Tokenizers out of GGUF metadata give the ids of the tokenizers that the metadata were made of."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.gguf.container import Container
from maxserve.plugins.gguf.tokenizer import tokenizer_config_of, tokenizer_of
from maxserve.plugins.gguf.words import _BY_NAME, is_composed

TEXTS = [
    "Hello, world! It's 2024; we've 123456 things & more...\n\n  Two  spaces\tand a tab.",
    "Ünïcödé: naïve café, 你好，世界。 こんにちは 한국어 emoji 👍🏽 ok",
    "def f(x):\n    return x**2  # squared\n\n\nprint(f(10))\r\n",
    " leading and trailing ",
    "I'LL SAY WE'RE HERE, DON'T <|end|> go<|end|>",
    "a\u0301e\u0301 " * 3,
    "",
]
CORPUS = [
    *TEXTS,
    "the quick brown fox jumps over the lazy dog " * 5,
    "1 22 333 4444 55555",
    "return the world to spaces",
]


def trained(words: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def metadata_of(tokenizer: Tokenizer, pre: str, **more: Any) -> dict[str, Any]:
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    added = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    by_id = {id: token for token, id in {**vocabulary, **added}.items()}
    tokens = [by_id[id] for id in range(len(by_id))]
    given = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [3 if token in added else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "eos_token_id": added["<|end|>"],
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in given.items()}


def container(metadata: Mapping[str, Any]) -> Container:
    return Container(path="model.gguf", metadata=metadata, tensors={})


def read(metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_of(container(metadata))))


def by(pattern: str) -> Any:
    from tokenizers import Regex

    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )


# How these models' own tokenizer.json cuts words.
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])


@dataclass(frozen=True)
class Case:
    pre: str
    words: Any
    normalizer: Any = None


@pytest.mark.parametrize(
    "case",
    [
        Case("gpt-2", GPT2),
        Case("smollm", SMOLLM),
        Case("llama-bpe", by(LLAMA3)),
        Case("qwen2", by(QWEN2), normalizers.NFC()),
    ],
    ids=lambda case: case.pre,
)
def test_bytes_are_merged_as_before(case: Case) -> None:
    tokenizer = trained(case.words, case.normalizer)
    again = read(metadata_of(tokenizer, case.pre, add_bos_token=False))
    for text in TEXTS:
        assert again.encode(text).ids == tokenizer.encode(text).ids
        assert again.decode(again.encode(text).ids, skip_special_tokens=False) == tokenizer.decode(
            tokenizer.encode(text).ids, skip_special_tokens=False
        )


def sentencepiece() -> tuple[Tokenizer, dict[str, Any]]:
    """A BPE over letters and spaces, with bytes to fall back on, and the metadata of its file."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:1] + CORPUS[2:], trainer)
    content = json.loads(tokenizer.to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    ranks = {first + second: -float(rank) for rank, (first, second) in reversed(list(enumerate(merges)))}
    types = dict.fromkeys(special, 6) | {"<unk>": 2, "<s>": 3, "</s>": 3}
    given = {
        "model": "llama",
        "tokens": tokens,
        "scores": [ranks.get(token, -1e6) for token in tokens],
        "token_type": [types.get(token, 1) for token in tokens],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    content["added_tokens"] = [entry for entry in content["added_tokens"] if not entry["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content)), {f"tokenizer.ggml.{key}": value for key, value in given.items()}


def test_scores_are_merges() -> None:
    tokenizer, metadata = sentencepiece()
    again = read(metadata)
    for text in TEXTS:
        assert again.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).ids
        assert again.encode(text).ids == [1, *tokenizer.encode(text).ids], (
            "begins with <s> unless the file says otherwise"
        )
        assert again.decode(again.encode(text).ids) == text.replace("<|end|>", "<|end|>")


def test_merges_of_letters_and_spaces_may_be_listed() -> None:
    """As files of Gemma 4 have them, which have no scores to go by."""
    tokenizer, metadata = sentencepiece()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    listed = {"model": "gemma4", "merges": [" ".join(merge) for merge in merges], "scores": None}
    again = read(metadata | {f"tokenizer.ggml.{key}": value for key, value in listed.items()})
    for text in TEXTS:
        assert again.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).ids
        assert again.encode(text).ids[0] == 1


@pytest.mark.parametrize("pre", sorted(_BY_NAME))
def test_no_text_is_lost_between_words(pre: str) -> None:
    tokenizer = read(metadata_of(trained(GPT2), pre, add_bos_token=False))
    for text in TEXTS:
        expected = unicodedata.normalize("NFC", text) if is_composed(pre) else text
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == expected


# Texts and their words, as llama.cpp has them for these names.
CUT: dict[str, list[str]] = {
    "deepseek-llm": [
        *(
            "It",
            "'",
            "s",
            " ",
            *"1234567",
            " \uff01",
            "\u4f60\u597d",
            "\u3002",
            " \u043f\u0440\u0438",
            " vu",
            "...",
            "\n",
            "\n",
        ),
        *(" ", " x", "+", "y", "=$", "3"),
    ],
    "falcon": ["It", "'", "s", " ", "123", "456", "7", " vu", "...", "\n\n ", " x", "+", "y", "=$", "3"],
    "viking": [
        "It's",
        " ",
        *"1234567",
        " \uff01\u4f60\u597d",
        "\u3002",
        "d\u00e9j\u00e0",
        " vu",
        "...\n\n ",
        " x+y=$",
        "3",
    ],
    "kimi-k2": [
        *("It's", " ", "123", "456", "7", " ", "\u4f60\u597d", "caf\u00e9", "\u3002", " Hello", "WORLD'LL", "...\n\n"),
        *(" ", " x\u3072\u3089", "\u4f60"),
    ],
    "superbpe": ["It's ", "1", "234", "567", " \uff01\u4f60\u597d\u3002d\u00e9j\u00e0 vu...\n\n  x+y=$", "3"],
}


@pytest.mark.parametrize("pre", CUT)
def test_texts_are_cut_into_the_words_of(pre: str) -> None:
    tokenizer, text = read(metadata_of(trained(GPT2), pre, add_bos_token=False)), "".join(CUT[pre])
    assert tokenizer.pre_tokenizer is not None
    words = [text[first:last] for _, (first, last) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert words == CUT[pre]


@pytest.mark.parametrize(("begins", "ends"), [(True, False), (False, True), (True, True), (False, False)])
def test_what_prompts_begin_and_end_with(begins: bool, ends: bool) -> None:
    metadata = metadata_of(trained(GPT2), "gpt-2", bos_token_id=7, add_bos_token=begins, add_eos_token=ends)
    plain = read(metadata).encode("a b", add_special_tokens=False).ids
    expected = [*([7] if begins else []), *plain, *([metadata["tokenizer.ggml.eos_token_id"]] if ends else [])]
    assert read(metadata).encode("a b").ids == expected


def test_templates_and_tokens() -> None:
    metadata = metadata_of(trained(GPT2), "gpt-2", bos_token_id=7)
    metadata |= {"tokenizer.chat_template": "{{ messages }}", "tokenizer.chat_template.tool_use": "{{ tools }}"}
    config = tokenizer_config_of(container(metadata))
    assert config["eos_token"] == "<|end|>"
    assert config["bos_token"] == metadata["tokenizer.ggml.tokens"][7]
    assert {each["name"]: each["template"] for each in config["chat_template"]} == {
        "default": "{{ messages }}",
        "tool_use": "{{ tools }}",
    }
    del metadata["tokenizer.chat_template.tool_use"]
    assert tokenizer_config_of(container(metadata))["chat_template"] == "{{ messages }}"


def test_a_tokenizer_that_lies_in_the_file_is_taken() -> None:
    tokenizer = trained(SMOLLM)
    metadata = {**metadata_of(tokenizer, "no such name"), "tokenizer.huggingface.json": tokenizer.to_str()}
    assert tokenizer_of(container(metadata)) == json.loads(tokenizer.to_str())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "no such"}, r"tokenizer.ggml.pre 'no such' is not known.*--model"),
        ({"pre": None}, r"tokenizer.ggml.pre 'default' is not known"),
        ({"model": "rwkv"}, r"tokenizer.ggml.model 'rwkv' is not read, only gpt2, llama, gemma4, bert and t5"),
        ({"model": "llama"}, r"no tokenizer.ggml.scores"),
        ({"tokens": None}, r"has no tokenizer.ggml.tokens"),
        ({"tokens": ["a", "a"]}, r"are the same"),
        ({"merges": [1, 2]}, r"has no tokenizer.ggml.merges"),
    ],
)
def test_what_is_not_known_is_named(changes: Mapping[str, Any], message: str) -> None:
    metadata = metadata_of(trained(GPT2), "gpt-2")
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(ModelError, match=message):
        tokenizer_of(container({key: value for key, value in metadata.items() if value is not None}))
