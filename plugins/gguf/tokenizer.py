"""tokenizer.json and tokenizer_config.json out of the metadata of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.container import Container
from maxserve.plugins.gguf.encoder_tokenizers import pieces_of_words, text_template, unigrams, word_pieces
from maxserve.plugins.gguf.words import OF_ENCODERS, begins_by_default, cuts_of, is_composed, keeps_whole_words

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type
_SPACE = "\u2581"
SPECIAL = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # so the key is spelt
    "pad_token": "padding",
}


def tokenizer_of(container: Container) -> dict[str, Any]:
    """The content of tokenizer.json; ModelError for a kind of tokenizer, or of words, that is not known."""
    metadata = container.metadata
    whole = metadata.get("tokenizer.huggingface.json")
    if isinstance(whole, str):
        return _parsed(container, whole)
    tokens = _tokens(container)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        made = _byte_level(container, tokens)
    elif kind == "llama":
        vocabulary = _vocabulary(container, tokens)
        made = _with_spaces(container, tokens, _scored_merges(container, tokens, vocabulary))
    elif kind == "gemma4":
        made = _with_spaces(container, tokens, _listed_merges(container, _vocabulary(container, tokens)))
    elif kind == "bert":
        made = word_pieces(container, tokens)
    elif kind == "t5":
        made = unigrams(container, tokens)
    else:
        raise ModelError(
            f"{container.path}: tokenizer.ggml.model {kind!r:.80} is not read, only gpt2, llama, gemma4, bert and t5; "
            "give the folder or repository of the model's own tokenizer with --model, and this file with --weight-path"
        )
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(metadata, tokens)}
    encodes = kind in ("bert", "t5") or metadata.get("tokenizer.ggml.pre") in OF_ENCODERS
    return {
        **base,
        **made,
        "post_processor": text_template(metadata, tokens) if encodes else _post_processor(container, tokens),
    }


def tokenizer_config_of(container: Container) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    metadata, tokens = container.metadata, _tokens(container)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in SPECIAL.items():
        id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(id, int) and 0 <= id < len(tokens):
            config[name] = tokens[id]
    templates = _templates(metadata)
    if templates:
        default = templates.pop("default", None)
        named = [{"name": name, "template": template} for name, template in templates.items()]
        config["chat_template"] = default if not named else [{"name": "default", "template": default}, *named]
    return config


def _templates(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Chat templates by name; the main one is "default"."""
    key = "tokenizer.chat_template"
    found = {"default": metadata[key]} if isinstance(metadata.get(key), str) else {}
    others = {name.removeprefix(key + "."): metadata[name] for name in metadata if name.startswith(key + ".")}
    return found | {name: text for name, text in others.items() if found and isinstance(text, str)}


def _parsed(container: Container, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{container.path}: tokenizer.huggingface.json is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{container.path}: tokenizer.huggingface.json is no JSON object")
    return content


def _tokens(container: Container) -> list[str]:
    """The tokens as tokenizer.json has them."""
    tokens = _strings(container, "tokens")
    return pieces_of_words(container, tokens) if container.metadata.get("tokenizer.ggml.model") == "bert" else tokens


def _strings(container: Container, key: str) -> list[str]:
    found = container.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise ModelError(
            f"{container.path} has no tokenizer.ggml.{key}; give the folder or repository of the model's own tokenizer "
            "with --model, and this file with --weight-path"
        )
    return found


def _added(metadata: Mapping[str, Any], tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens that are found in a text before it is cut into words."""
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, list):
        return []
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": id, "content": token, **plain, "special": type != _USER_DEFINED}
        for id, (token, type) in enumerate(zip(tokens, types, strict=False))
        if type in (_UNKNOWN, _CONTROL, _USER_DEFINED) and token
    ]


def _vocabulary(container: Container, tokens: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: id for id, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelError(f"{container.path}: two of tokenizer.ggml.tokens are the same; fetch the file again")
    return vocabulary


def _byte_level(container: Container, tokens: Sequence[str]) -> dict[str, Any]:
    """A byte pair encoding of bytes, as GPT-2's."""
    pre = container.metadata.get("tokenizer.ggml.pre", "default")
    cuts = cuts_of(container.path, pre)
    vocabulary = _vocabulary(container, tokens)
    return {
        "normalizer": {"type": "NFC"} if is_composed(pre) else None,
        "pre_tokenizer": cuts[0] if len(cuts) == 1 else {"type": "Sequence", "pretokenizers": cuts},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _model(vocabulary, _listed_merges(container, vocabulary), ignore_merges=keeps_whole_words(pre)),
    }


def _listed_merges(container: Container, vocabulary: Mapping[str, int]) -> list[list[str]]:
    """Merges of which both parts, and what comes out, are tokens."""
    merges = (merge.split(" ", 1) for merge in _strings(container, "merges"))
    return [
        [first, second]
        for first, second in (merge for merge in merges if len(merge) == 2)
        if first in vocabulary and second in vocabulary and first + second in vocabulary
    ]


def _with_spaces(container: Container, tokens: Sequence[str], merges: Sequence[Sequence[str] | str]) -> dict[str, Any]:
    """SentencePiece's byte pair encoding: spaces are letters, and what is no token is bytes."""
    vocabulary = _vocabulary(container, tokens)
    prefix = bool(container.metadata.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    unknown = container.metadata.get("tokenizer.ggml.unknown_token_id", 0)
    named = tokens[unknown] if isinstance(unknown, int) and 0 <= unknown < len(tokens) else None
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {**_model(vocabulary, merges), "unk_token": named, "fuse_unk": True, "byte_fallback": True},
    }


def _scored_merges(container: Container, tokens: Sequence[str], vocabulary: Mapping[str, int]) -> list[str]:
    """All ways in which two tokens make a third, as "first second", the best score of that first.

    Texts, as lists of half a million pairs take the collector of garbage as long as all else.
    """
    scores = container.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelError(f"{container.path} has no tokenizer.ggml.scores of its {len(tokens)} tokens; fetch it again")
    merges: list[str] = []
    for _, ids in groupby(sorted(range(len(tokens)), key=scores.__getitem__, reverse=True), key=scores.__getitem__):
        made = [merge for id in ids for merge in _cut_in_two(tokens[id], vocabulary)]
        made.sort(key=lambda merge: (len(merge[0]), len(merge[1])), reverse=True)
        merges += [f"{first} {second}" for first, second in made]
    return merges


def _cut_in_two(token: str, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The two tokens that a token is made of, in all ways; none of those with a space, which no text has by then."""
    if " " in token:
        return
    for cut in range(1, len(token)):
        first, second = token[:cut], token[cut:]
        if first in vocabulary and second in vocabulary:
            yield first, second


def _model(
    vocabulary: Mapping[str, int], merges: Sequence[Sequence[str] | str], *, ignore_merges: bool = False
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }


def _post_processor(container: Container, tokens: Sequence[str]) -> dict[str, Any] | None:
    """What puts the tokens at the beginning and the end that the file asks for."""
    metadata = container.metadata
    usual = metadata.get("tokenizer.ggml.model") in ("llama", "gemma4") or begins_by_default(
        metadata.get("tokenizer.ggml.pre")
    )
    begins = metadata.get("tokenizer.ggml.add_bos_token", usual)
    wanted = {"bos": begins, "eos": metadata.get("tokenizer.ggml.add_eos_token", False)}
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name, asked in wanted.items() if asked}
    found = {name: id for name, id in ids.items() if isinstance(id, int) and 0 <= id < len(tokens)}
    if not found:
        return None
    special = {tokens[id]: {"id": tokens[id], "ids": [id], "tokens": [tokens[id]]} for id in found.values()}

    def template(text: str, kind: int) -> list[dict[str, Any]]:
        around = {name: [{"SpecialToken": {"id": tokens[id], "type_id": kind}}] for name, id in found.items()}
        return [*around.get("bos", []), {"Sequence": {"id": text, "type_id": kind}}, *around.get("eos", [])]

    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": [*template("A", 0), *template("B", 1)],
        "special_tokens": special,
    }
