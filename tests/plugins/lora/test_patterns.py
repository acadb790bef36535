"""Expressions of adapters are those of `re`, and take no time."""

from __future__ import annotations

import random
import re
import time

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.lora.patterns import MOST_STEPS, Matcher

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head", "q_proj", "a.b.aab")
PIECES = [
    *("q_proj", "up_proj", r"\.", ".*", ".", "layers", "[0-9]+", r"\d", r"\d{1,2}", "(", "(?:", ")", "|", "a", "b"),
    *("?", "*", "+", "+?", "self_attn", "$", "^", "{2}", "{,3}", "[^.]", "[a-m]*"),
]


def test_matches_are_those_of_re() -> None:
    rng = random.Random(1)
    matched = 0
    for _ in range(20_000):
        key = "".join(rng.choices(PIECES, k=rng.randrange(1, 8)))
        try:
            found = [Matcher().matches(key, name) for name in NAMES]
        except ModelError:
            continue
        assert found == [re.match(rf"(.*\.)?({key})$", name) is not None for name in NAMES], key
        matched += any(found)
    assert matched > 100


SLOW = ("((((a*)*)*)*b|.)*c", "((a{1,99}){1,99}){1,99}c", ".*" * 100 + "x", "((|||){999}){999}", "(a|a|a|aa)*b")


@pytest.mark.parametrize("key", SLOW)
def test_slow_expressions_end_soon(key: str) -> None:
    matcher, begin = Matcher(), time.monotonic()
    with pytest.raises(ModelError, match=f"more than {MOST_STEPS} steps"):
        all(matcher.matches(key, "a" * 60) or True for _ in range(1_000_000))
    assert time.monotonic() - begin < 20  # less than one on a quiet machine; `re` takes years for some


REFUSED = ("(", ")", "a)", "*", "a**", "a++", "(?=a)", r"(a)\1", r"\bq", "(?i)a", "[", "{2}", "a{,}", "(a)" * 99)


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_taken_is_refused(key: str) -> None:
    with pytest.raises(ModelError, match="is no expression"):
        Matcher().matches(key, "a")
