"""The tokenizers of encoders in GGUF files, WordPiece and Unigram, as tokenizer.json has them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.container import Container

_SPACE = "\u2581"
_CONTROL, _BYTE = 3, 6  # tokenizer.ggml.token_type
_PREFIX = "##"  # of what continues a word
_UNKNOWN_WORD, _UNKNOWN_PIECE = 100, 2  # ids where the file does not say, as llama.cpp has them
_EXTRA_SPACES = r"\A\s+|\s+\z|(?<=\s)\s+"


def pieces_of_words(container: Container, tokens: Sequence[str]) -> list[str]:
    """BERT's tokens: files have those that begin a word with a space, and others without "##"."""
    types = container.metadata.get("tokenizer.ggml.token_type")
    types = types if isinstance(types, list) and len(types) == len(tokens) else [0] * len(tokens)
    return [_piece(token, type) for token, type in zip(tokens, types, strict=True)]


def _piece(token: str, type: int) -> str:
    if type == _CONTROL:
        return token
    return token[len(_SPACE) :] if token.startswith(_SPACE) else _PREFIX + token


def word_pieces(container: Container, words: Sequence[str]) -> dict[str, Any]:
    """BERT's tokenizer, of what `pieces_of_words` gives."""
    metadata = container.metadata
    vocabulary = {word: id for id, word in enumerate(words)}
    if len(vocabulary) < len(words):
        raise ModelError(f"{container.path}: two of tokenizer.ggml.tokens are the same; fetch the file again")
    lowercase = metadata.get("tokenizer.ggml.normalizer.lowercase")
    if lowercase is None:  # not said: a vocabulary without capital letters is one of small letters
        lowercase = not any(word != word.lower() for word in words if not word.startswith(("[", "<")))
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": metadata.get("tokenizer.ggml.normalizer.strip_accents"),
            "lowercase": bool(lowercase),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": _PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": words[_known_id(container, "unknown", _UNKNOWN_WORD, words)],
            "continuing_subword_prefix": _PREFIX,
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def unigrams(container: Container, tokens: Sequence[str]) -> dict[str, Any]:
    """SentencePiece's tokenizer by the probabilities of pieces, as T5 and XLM-RoBERTa have it."""
    metadata = container.metadata
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelError(f"{container.path} has no tokenizer.ggml.scores of its {len(tokens)} tokens; fetch it again")
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    types = metadata.get("tokenizer.ggml.token_type")
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(container, tokens, prefix=prefix)},
        "pre_tokenizer": _words_apart(tokens),
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "Unigram",
            "unk_id": _known_id(container, "unknown", _UNKNOWN_PIECE, tokens),
            "vocab": [list(entry) for entry in zip(tokens, scores, strict=True)],
            "byte_fallback": isinstance(types, list) and _BYTE in types,
        },
    }


def _words_apart(tokens: Sequence[str]) -> Mapping[str, Any] | None:
    """What cuts a text at its spaces: pieces of one word are found sooner than those of a text; None where a piece may
    have several words."""
    if any(_SPACE in token.lstrip(_SPACE) or token.startswith(2 * _SPACE) for token in tokens):
        return None
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "never", "split": True}


def _normalizers(container: Container, tokens: Sequence[str], *, prefix: bool) -> list[Mapping[str, Any]]:
    """Characters, then spaces. Only a vocabulary that has several spaces in one piece has kept them, whatever
    `remove_extra_whitespaces` says: some writers of files take that from a setting of another meaning."""
    metadata = container.metadata
    made: list[Mapping[str, Any]] = []
    characters = metadata.get("tokenizer.ggml.precompiled_charsmap")
    if characters:
        made.append({"type": "Precompiled", "precompiled_charsmap": _encoded(container, characters)})
    keeps = metadata.get("tokenizer.ggml.remove_extra_whitespaces") is False
    space = {"String": " "}
    if not (keeps and any(2 * _SPACE in token for token in tokens)):
        made.append({"type": "Replace", "pattern": {"Regex": _EXTRA_SPACES}, "content": ""})
        space = {"Regex": r"\s"}
    if prefix:
        made.append({"type": "Prepend", "prepend": _SPACE})
    return [*made, {"type": "Replace", "pattern": space, "content": _SPACE}]


def _encoded(container: Container, numbers: Any) -> str:
    """Bytes, signed or not, in base 64."""
    if not isinstance(numbers, list) or not all(isinstance(each, int) and -128 <= each < 256 for each in numbers):
        raise ModelError(f"{container.path}: tokenizer.ggml.precompiled_charsmap is no list of bytes; fetch it again")
    return base64.b64encode(bytes(each & 255 for each in numbers)).decode()


def _known_id(container: Container, role: str, usual: int, tokens: Sequence[str]) -> int:
    id = container.metadata.get(f"tokenizer.ggml.{role}_token_id", usual)
    if not isinstance(id, int) or not 0 <= id < len(tokens):
        raise ModelError(
            f"{container.path}: tokenizer.ggml.{role}_token_id is {id!r:.40}, and there are {len(tokens)} tokens; "
            "fetch it again"
        )
    return id


def ends_of_text(metadata: Mapping[str, Any], count: int) -> tuple[list[int], list[int]]:
    """The ids that a text begins and ends with, none or one each, of a vocabulary of so many tokens.

    What files do not say is what llama.cpp has for these tokenizers.
    """
    model = metadata.get("tokenizer.ggml.model")
    is_bert = model == "bert"
    roles: tuple[tuple[str, ...], ...] = (("bos",), ("eos",))
    if is_bert:
        roles = (("bos", "cls"), ("seperator", "eos"))  # so the key is spelt
    usual: tuple[int | None, int | None] = (101, 102) if is_bert else (None, 1 if model == "t5" else None)
    asked = (
        metadata.get("tokenizer.ggml.add_bos_token", is_bert),
        is_bert or metadata.get("tokenizer.ggml.add_eos_token", model == "t5"),
    )
    found: list[list[int]] = []
    for names, default, wanted in zip(roles, usual, asked, strict=True):
        given = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names]
        id = next((each for each in given if isinstance(each, int)), default)
        found.append([id] if wanted and id is not None and 0 <= id < count else [])
    return found[0], found[1]


def text_template(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """What puts these tokens around a text, and around two that are scored together."""
    first, last = ends_of_text(metadata, len(tokens))
    if not first and not last:
        return None
    parts = int(metadata.get("tokenizer.ggml.model") == "bert")  # whose tokens know which of two texts they are of
    doubled = not parts and metadata.get("tokenizer.ggml.add_sep_token", bool(first))

    def special(ids: Sequence[int], kind: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": tokens[id], "type_id": kind}} for id in ids]

    single = [*special(first, 0), {"Sequence": {"id": "A", "type_id": 0}}, *special(last, 0)]
    second = [{"Sequence": {"id": "B", "type_id": parts}}, *special(last, parts)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *(special(last, 0) if doubled else []), *second],
        "special_tokens": {
            tokens[id]: {"id": tokens[id], "ids": [id], "tokens": [tokens[id]]} for id in (*first, *last)
        },
    }
