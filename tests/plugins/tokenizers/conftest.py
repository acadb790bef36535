"""Tokenizers that the tests make: one per family of vocabularies in use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "Hello world, this is a small help desk. How do I serve a model?",
    "Grüße aus Köln: naïve façade, 日本語のテキスト, привет мир, 😀 🎉 👩‍👩‍👧 done.",
    "def f(x):\n    return x + 1  # twice  spaced\n\tand tabs",
    "One fish two fish red fish blue fish. The cat's hat isn't here, it's there!",
] * 8
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """Like GPT-2, Llama 3, Qwen: byte-level BPE; a template adds <s> in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<|turn|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("two words"), AddedToken("é<x>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Like Llama 2 and Gemma: words begin with ▁, unknown characters become byte tokens, one leading space is cut."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    content = json.loads(trained.to_str())["model"]
    pieces = sorted(content["vocab"], key=content["vocab"].get)
    pieces = [piece for piece in pieces if all(ord(char) < 256 or char == "▁" for char in piece)]
    merges = [tuple(m) for m in content["merges"] if "".join(m) in pieces and set(m) <= set(pieces)]
    vocab = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *BYTE_TOKENS, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram() -> Tokenizer:
    """Like T5: Unigram with Metaspace and </s> at the end."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return tokenizer


def word_piece() -> Tokenizer:
    """Like BERT: pieces inside a word begin with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "<s>", "</s>", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "unigram": unigram,
    "word_piece": word_piece,
}


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with tokenizer.json and tokenizer_config.json for each family."""
    folders = {}
    for name, make in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        make().save(str(folder / "tokenizer.json"))
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": {
                "__type": "AddedToken",
                "content": "</s>",
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
            },
            "pad_token": None,
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        folders[name] = folder
    return folders


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tokenizer_folders: dict[str, Path]) -> Path:
    """Each family's folder, one after another."""
    return tokenizer_folders[request.param]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts that are awkward for tokenizers in one way or another."""
    return [
        "",
        " ",
        "Hello world",
        " leading and trailing ",
        "two  spaces\n\nand\tlines",
        "naïve café 日本語 😀👩‍👩‍👧 привет ﷽",
        "<s>spelled out</s> <|turn|><think>two words</think> é<x>",
        "it's there, isn't it?",
        *CORPUS[:4],
    ]
