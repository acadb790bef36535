"""Tokenizers written as metadata of GGUF files are read as the tokenizers that they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.container import Container
from maxserve.plugins.gguf.tokenizer import tokenizer_config_of, tokenizer_of
from maxserve.plugins.gguf.vocabulary import Vocabulary, vocabulary_of

CORPUS = ["the quick brown fox jumps over the lazy dog " * 5, "return the world to spaces", "1 22 333 4444"]
TEXTS = ["Hello, world!\n\n  12345 it's", "naïve 你好 👍", "a<|end|> b", ""]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}| ", r"|\p{N}{1,3}| ")
SIZE = 320


def byte_level(words: Any, normalizer: Any = None, *, whole: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    tokenizer.pre_tokenizer, tokenizer.normalizer, tokenizer.decoder = words, normalizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<s>", "<|end|>", "<|turn|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return tokenizer


def split(pattern: str, behavior: str = "isolated", *, invert: bool = False) -> Any:
    bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior, invert), bytes])


def sentencepiece(*, prefix: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefix else replace
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    special = ["<unk>", "<s>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if not entry["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


def saved(folder: Path, tokenizer: Tokenizer, **roles: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "bos_token": "<s>", **roles}))
    return folder


def read(found: Vocabulary) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_of(Container(path="", metadata=found.metadata, tensors={}))))


def of(found: Vocabulary, key: str) -> Any:
    return found.metadata[f"tokenizer.ggml.{key}"]


WORDS: list[tuple[str, Any, Any, bool]] = [
    ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False), None, False),
    (
        "smollm",
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        None,
        False,
    ),
    ("llama-bpe", split(LLAMA3), None, True),
    ("smaug-bpe", split(LLAMA3), None, False),
    ("qwen2", split(QWEN2), normalizers.NFC(), False),
    ("deepseek-r1-qwen", split(QWEN2, "removed", invert=True), None, False),
]


@pytest.mark.parametrize(("pre", "words", "normalizer", "whole"), WORDS, ids=[case[0] for case in WORDS])
def test_words_have_the_name_that_they_are_read_by(
    pre: str, words: Any, normalizer: Any, whole: bool, tmp_path: Path
) -> None:
    tokenizer = byte_level(words, normalizer, whole=whole)
    found = vocabulary_of(saved(tmp_path, tokenizer), SIZE, [])
    assert of(found, "pre") == pre
    assert of(found, "token_type") == [*[1] * 300, 3, 3, 3, 4, *[5] * (SIZE - 304)]
    for text in TEXTS:
        assert read(found).encode(text).ids == tokenizer.encode(text).ids
        assert read(found).decode(tokenizer.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)
    assert found.notes == []


@pytest.mark.parametrize("prefix", [True, False])
def test_merges_become_scores(prefix: bool, tmp_path: Path) -> None:
    tokenizer = sentencepiece(prefix=prefix)
    found = vocabulary_of(saved(tmp_path, tokenizer, unk_token="<unk>"), SIZE, [2])
    assert of(found, "model") == "llama"
    assert of(found, "add_space_prefix") is prefix
    assert of(found, "token_type")[:4] == [2, 3, 3, 6]
    assert of(found, "unknown_token_id") == 0
    for text in TEXTS:
        assert read(found).encode(text).ids == tokenizer.encode(text).ids


def test_roles_ends_and_templates(tmp_path: Path) -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 300)])
    templates = [{"name": "default", "template": "{{ a }}"}, {"name": "tools", "template": "{{ b }}"}]
    saved(tmp_path, tokenizer, chat_template=templates, pad_token={"content": "<|turn|>"})
    found = vocabulary_of(tmp_path, SIZE, [302, 301, 7, 9])
    assert [of(found, f"{end}_token_id") for end in ("bos", "eos", "eot", "eom", "padding")] == [300, 301, 302, 7, 302]
    assert (of(found, "add_bos_token"), of(found, "add_eos_token")) == (True, False)
    assert found.notes == ["token 9 ends no answer: GGUF files name 3 that do"]
    config = tokenizer_config_of(Container(path="", metadata=found.metadata, tensors={}))
    assert config["chat_template"] == templates
    assert read(found).encode("a").ids == tokenizer.encode("a").ids
    (tmp_path / "chat_template.jinja").write_text("{{ c }}")
    assert vocabulary_of(tmp_path, SIZE, []).metadata["tokenizer.chat_template"] == "{{ c }}"


def test_the_end_that_templates_write_stays_where_other_ends_are_named(tmp_path: Path) -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    found = vocabulary_of(saved(tmp_path, tokenizer), SIZE, [302])
    assert [of(found, f"{end}_token_id") for end in ("eos", "eot")] == [301, 302]
    assert tokenizer_config_of(Container(path="", metadata=found.metadata, tensors={}))["eos_token"] == "<|end|>"


def test_added_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_tokens(["<image>"])
    last = tokenizer.token_to_id("<image>")
    found = vocabulary_of(saved(tmp_path, tokenizer), last, [])
    assert len(of(found, "tokens")) == last
    assert found.notes == [f"token {last}, '<image>', is left out: the table has no row of it"]
    with pytest.raises(ModelError, match=r"its tokenizer has token 299, and its table 299 rows only; use"):
        vocabulary_of(tmp_path, 299, [])


def test_what_tokenizer_config_says_of_tokens_counts(tmp_path: Path) -> None:
    declared = {"303": {"content": "<think>", "special": True}, "304": {"content": "<more>", "special": False}}
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    found = vocabulary_of(saved(tmp_path, tokenizer, added_tokens_decoder=declared), SIZE, [])
    assert of(found, "token_type")[300:305] == [3, 3, 3, 3, 4]
    assert read(found).encode("a<more>").ids[-1] == 304


def test_spaces_beside_tokens_are_reported(tmp_path: Path) -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens([AddedToken("<wide>", rstrip=True, special=True)])
    found = vocabulary_of(saved(tmp_path, tokenizer), SIZE, [])
    assert found.notes == ["spaces beside <wide> are read otherwise: GGUF files do not say that"]


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    odd = byte_level(split(r"\w+|\W+"))
    with pytest.raises(ModelError, match=r"no tokenizer.ggml.pre is known for how its tokenizer.json cuts texts"):
        vocabulary_of(saved(tmp_path, odd), SIZE, [])
    with pytest.raises(ModelError, match=r"its tokenizer has token 299, and its table 290 rows only"):
        vocabulary_of(saved(tmp_path, odd), 290, [])
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False))
    with pytest.raises(ModelError, match=r"a model of type 'Unigram'"):
        vocabulary_of(saved(tmp_path, unigram), SIZE, [])
    ended = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    ended.post_processor = processors.TemplateProcessing(single="$A <|turn|>", special_tokens=[("<|turn|>", 302)])
    with pytest.raises(ModelError, match=r"prompts that begin or end with other tokens than bos and eos"):
        vocabulary_of(saved(tmp_path, ended), SIZE, [])
    fewer = sentencepiece()
    content = json.loads(fewer.to_str())
    content["model"]["merges"] = content["model"]["merges"][::2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"GGUF files have no tokenizer like its own"):
        vocabulary_of(tmp_path, SIZE, [])
