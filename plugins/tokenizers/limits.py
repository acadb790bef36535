"""Bounds on how much the steps of a tokenizer lengthen a text.

Each step multiplies. A file of a few kilobytes can so ask for more memory than there is, and the library that runs the
steps ends the process when it gets none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from maxserve.interfaces.errors import ModelError

_MOST = 256  # times; vocabularies in use stay below 64
_MOST_ADDED = 1 << 12  # tokens that a template adds to a text
_FACTORS: Mapping[str, float] = {  # of steps that are not read below, in bytes
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Precompiled": 18,
    "Lowercase": 3,
    "BertNormalizer": 5,
    "ByteLevel": 2,
    "Metaspace": 3,
    "WordPiece": 2,
}


def check_growth(tokenizer: tokenizers.Tokenizer, file: Path) -> None:
    """ModelError, naming the part of `file`, when its steps make texts that much longer."""
    parts = {"normalizer": tokenizer.normalizer, "pre_tokenizer": tokenizer.pre_tokenizer, "decoder": tokenizer.decoder}
    for name, part in parts.items():
        factor = 1.0 if part is None else _growth(json.loads(part.__getstate__()))
        if factor > _MOST:
            raise ModelError(
                f"{file}: its {name} can make a text {factor:.0f} times as long, and no tokenizer needs more than "
                f"{_MOST} times; fetch it again"
            )
    added = max(tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
    if added > _MOST_ADDED:
        raise ModelError(f"{file}: its post_processor adds {added} tokens to each text; fetch it again")


def _growth(step: Any) -> float:
    """Bytes out for each byte in, at most."""
    if not isinstance(step, Mapping):
        return 1.0
    kind = step.get("type")
    if kind == "Sequence":
        factor = 1.0
        for key in ("normalizers", "pretokenizers", "decoders"):
            for each in step.get(key, ()):
                factor *= _growth(each)
        return factor
    if kind == "Replace":
        return _replacement(step.get("pattern"), str(step.get("content", "")))
    return _FACTORS.get(str(kind), 1.0)


def _replacement(pattern: Any, content: str) -> float:
    """A regular expression may match nothing at all, before every character and at the end."""
    old = pattern.get("String") if isinstance(pattern, Mapping) else None
    new = len(content.encode(errors="replace"))
    return max(1.0, new / len(old.encode(errors="replace"))) if old else 1.0 + new
