"""How texts are cut into words before merges, by tokenizer.ggml.pre: what the tokenizer.json of such models says.

llama.cpp's src/llama-vocab.cpp has the names. A name that is not here is refused: words cut otherwise give a model
tokens that it never saw.
"""

from __future__ import annotations

from typing import Any

from maxserve.interfaces.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT = r"[^\r\n\p{L}\p{N}]?"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HAN_KANA = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"

_HAN_HANGUL = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_LLAMA3 = rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|{_FRONT}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = rf"{_FRONT}{_UPPER}*{_LOWER}+|{_FRONT}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHES}"
_GPT4O = (
    rf"{_FRONT}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_FRONT}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHES}"
)
_DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
_SEED = rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{_FRONT}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_WORDS = {**_BYTES, "use_regex": True}  # GPT-2's own
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _by(*patterns: str) -> list[dict[str, Any]]:
    return [*map(_split, patterns), _BYTES]


_CUTS: dict[tuple[str, ...], list[dict[str, Any]]] = {
    ("gpt-2", "phi-2", "mpt", "olmo", "exaone4", "trillion", "granite-docling"): [_WORDS],
    ("a.x-4.0", "mellum", "gigachat"): [_WORDS],
    ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"): [_DIGITS, _WORDS],
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): _by(_LLAMA3),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): _by(_LLAMA3),
    ("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"): _by(_QWEN2),
    ("qwen35",): _by(_QWEN35),
    ("tekken",): _by(_TEKKEN),
    ("gpt-4o", "llama4", "kanana2", "minimax-m2"): _by(_GPT4O),
    ("deepseek-v3", "hunyuan-dense"): _by(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3),
    ("deepseek-coder",): _by(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_HANGUL, r"\p{N}"),
    ("seed-coder",): _by(_SEED),
    ("bailingmoe", "bailingmoe2", "llada-moe"): _by(_BAILING),
}
_BY_NAME = {name: cuts for names, cuts in _CUTS.items() for name in names}
# Words that are tokens are not merged up from bytes.
_WHOLE_WORDS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
)
_COMPOSED = frozenset({"qwen2", "qwen35", "olmo", "stablelm2"})  # texts are brought into NFC first
_BEGINS = _WHOLE_WORDS  # with a token of its own where the file does not say


def cuts_of(path: str, pre: str) -> list[dict[str, Any]]:
    """The pre-tokenizers, as tokenizer.json has them; ModelError where the name is not known."""
    if pre not in _BY_NAME:
        raise ModelError(
            f"{path}: tokenizer.ggml.pre {pre!r:.80} is not known, so it is not known how texts are cut into words; "
            "give the folder or repository of the model's own tokenizer with --model, and this file with --weight-path"
        )
    return _BY_NAME[pre]


def keeps_whole_words(pre: str) -> bool:
    """Whether a word that is a token is that token, whatever merges would make of it."""
    return pre in _WHOLE_WORDS


def is_composed(pre: str) -> bool:
    """Whether texts are normalized (NFC) first."""
    return pre in _COMPOSED


def begins_by_default(pre: str | None) -> bool:
    """Whether prompts begin with the bos token where the file does not say."""
    return pre in _BEGINS
