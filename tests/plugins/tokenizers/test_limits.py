from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.tokenizers.limits import check_growth

FILE = Path("tokenizer.json")


def made(**parts: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": normalizers.Sequence([normalizers.Replace("i", "i" * 1000)] * 6)},
        {"normalizer": normalizers.Replace(Regex("x*"), "i" * 300)},
        {"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.NFKD(), normalizers.NFKD()])},
        {"normalizer": normalizers.Replace("", "i" * 300)},
        {"decoder": decoders.Sequence([decoders.Replace("a", "a" * 20)] * 3)},
        {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 20)},
        {"post_processor": processors.TemplateProcessing(single=["a"] * 5000 + ["$A"], special_tokens=[("a", 0)])},
    ],
)
def test_steps_that_grow_texts_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=rf"tokenizer\.json: its {next(iter(parts))} (can make|adds)"):
        check_growth(made(**parts), FILE)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
        {
            "normalizer": normalizers.Sequence(
                [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
            )
        },
        {"normalizer": normalizers.Replace(Regex(" {2,}"), "▁"), "pre_tokenizer": pre_tokenizers.Metaspace()},
        {"normalizer": normalizers.BertNormalizer(), "decoder": decoders.WordPiece()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(), "decoder": decoders.ByteLevel()},
    ],
)
def test_steps_in_use_are_not(parts: dict[str, Any]) -> None:
    check_growth(made(**parts), FILE)
