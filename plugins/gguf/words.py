"""How texts are cut into words before merges, by tokenizer.ggml.pre: what the tokenizer.json of such models says.

llama.cpp's src/llama-vocab.cpp has the names. A name that is not here is refused: words cut otherwise give a model
tokens that it never saw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxserve.interfaces.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT = r"[^\r\n\p{L}\p{N}]?"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HAN_KANA = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"

_HAN_HANGUL = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_CASED = (  # letters in two cases, as DeepSeek's tokenizer.json lists them
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_NO_STOPS = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_LLAMA3 = rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|{_FRONT}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = rf"{_FRONT}{_UPPER}*{_LOWER}+|{_FRONT}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHES}"
_GPT4O = (
    rf"{_FRONT}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_FRONT}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHES}"
)
_UPPER_NO_HAN, _LOWER_NO_HAN = (f"{letters[:-1]}&&[^\\p{{Han}}]]" for letters in (_UPPER, _LOWER))
_KIMI_K2 = (
    rf"\p{{Han}}+|{_FRONT}{_UPPER_NO_HAN}*{_LOWER_NO_HAN}+{_CONTRACTIONS}?|"
    rf"{_FRONT}{_UPPER_NO_HAN}+{_LOWER_NO_HAN}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST}"
)
_DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
_YOUTU_SIGNS = (
    r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    r"|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_YOUTU = _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")
_SPARK = _DEEPSEEK3.replace(r"[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+", r"[\p{P}\p{S}]+|[\r\n]")
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|{_FRONT}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|"
    r"\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = _LLAMA3.removesuffix(r"\s+(?!\S)|\s+") + (
    "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
)
_SEED = rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{_FRONT}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_WORDS = {**_BYTES, "use_regex": True}  # GPT-2's own
_THREES = {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _by(*patterns: str) -> list[dict[str, Any]]:
    return [*map(_split, patterns), _BYTES]


_CUTS: dict[tuple[str, ...], list[dict[str, Any]]] = {
    ("gpt-2", "phi-2", "mpt", "olmo", "exaone4", "trillion", "granite-docling"): [_WORDS],
    ("a.x-4.0", "mellum", "gigachat", "jais"): [_WORDS],
    ("roberta-bpe",): [_WORDS],
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"): [_DIGITS, _WORDS],
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): _by(_LLAMA3),
    ("smaug-bpe", "dbrx", "glm4", "chatglm-bpe", "glm5"): _by(_LLAMA3),
    ("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "f2llmv2"): _by(
        _QWEN2
    ),
    ("qwen35",): _by(_QWEN35),
    ("tekken",): _by(_TEKKEN),
    ("kimi-k2",): _by(_KIMI_K2),
    ("gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"): _by(_GPT4O),
    ("deepseek-v3", "hunyuan-dense"): _by(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3),
    ("joyai-llm", "hy_v4"): _by(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3),
    ("spark2_5",): _by(r"\p{N}{1,3}", _HAN_KANA, _SPARK, r"\p{N}"),
    ("youtu",): _by(_YOUTU_SIGNS, _YOUTU),
    ("deepseek-llm",): _by(
        r"[\r\n]",
        rf"\s?[{_CASED}]+",
        r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        _HAN_HANGUL,
        r"\p{N}",
    ),
    ("falcon",): [
        {"type": "Punctuation", "behavior": "Contiguous"},
        _WORDS,
        {"type": "Digits", "individual_digits": False},
        _THREES,
    ],
    ("viking",): _by(_NO_STOPS, r"\p{N}"),
    ("poro-chat", "bloom", "gpt3-finnish"): _by(_NO_STOPS),
    ("exaone-moe",): _by(_EXAONE_MOE),
    ("jais-2",): _by(_JAIS2),
    ("ufakzeka",): _by(_QWEN2.removeprefix(f"{_CONTRACTIONS}|")),
    ("minicpm5",): _by(r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")),
    ("superbpe",): _by(r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    ("tiny_aya", "cohere2moe"): _by(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O),
    ("laguna",): _by(r"[^\n]+|[\n]+", _QWEN2),
    ("deepseek-coder",): _by(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_HANGUL, r"\p{N}"),
    ("seed-coder",): _by(_SEED),
    ("bailingmoe", "bailingmoe2", "llada-moe"): _by(_BAILING),
}
_BY_NAME = {name: cuts for names, cuts in _CUTS.items() for name in names}
# Words that are tokens are not merged up from bytes.
_WHOLE_WORDS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
)
OF_ENCODERS = frozenset({"roberta-bpe"})  # which put tokens between two texts, too
_COMPOSED = frozenset({"qwen2", "olmo", "stablelm2"})  # texts are brought into NFC first
_BEGINS = _WHOLE_WORDS  # with a token of its own where the file does not say


def cuts_of(path: str, pre: str) -> list[dict[str, Any]]:
    """The pre-tokenizers, as tokenizer.json has them; ModelError where the name is not known."""
    if pre not in _BY_NAME:
        raise ModelError(
            f"{path}: tokenizer.ggml.pre {pre!r:.80} is not known, so it is not known how texts are cut into words; "
            "give the folder or repository of the model's own tokenizer with --model, and this file with --weight-path"
        )
    return _BY_NAME[pre]


def pre_of(tokenizer: Mapping[str, Any], folder: Path) -> str:
    """The name for how the content of a tokenizer.json cuts words; ModelError where there is none."""
    given = tokenizer.get("pre_tokenizer")
    wanted = [_plain(step) for step in _steps(given)]
    composed = [step["type"] for step in _steps(tokenizer.get("normalizer"))]
    whole = bool(tokenizer["model"].get("ignore_merges"))
    for name, cuts in _BY_NAME.items():
        same = [_plain(step) for step in cuts] == wanted and (composed == ["NFC"]) == is_composed(name)
        if same and composed in ([], ["NFC"]) and keeps_whole_words(name) == whole:
            return name
    raise ModelError(
        f"{folder}: no tokenizer.ggml.pre is known for how its tokenizer.json cuts texts into words "
        f"({json.dumps(given)!s:.200}); use the checkpoint as it is"
    )


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A pre-tokenizer, or a normalizer, as a list of simple ones."""
    if part is None:
        return []
    inner = part.get("pretokenizers", part.get("normalizers"))
    return [part] if inner is None else [step for each in inner for step in _steps(each)]


def _plain(step: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a pre-tokenizer does, however it is spelt."""
    kind = step["type"]
    if kind == "ByteLevel":
        return kind, bool(step.get("add_prefix_space", True)), bool(step.get("use_regex", True))
    if kind == "Digits":
        return kind, bool(step.get("individual_digits"))
    if kind != "Split":
        return kind, json.dumps(step, sort_keys=True)
    pattern, behavior = step["pattern"], step.get("behavior")
    kept = behavior == "Removed" and step.get("invert")  # all that matches, which is all there is
    return kind, pattern.get("Regex", pattern.get("String")), "Isolated" if kept else behavior


def keeps_whole_words(pre: str) -> bool:
    """Whether a word that is a token is that token, whatever merges would make of it."""
    return pre in _WHOLE_WORDS


def is_composed(pre: str) -> bool:
    """Whether texts are normalized (NFC) first."""
    return pre in _COMPOSED


def begins_by_default(pre: str | None) -> bool:
    """Whether prompts begin with the bos token where the file does not say."""
    return pre in _BEGINS
