"""The scanner takes what `json` takes, and ends where it ends."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from maxserve.core.answers.call_text import CallText
from maxserve.core.answers.json_scanner import JsonScanner

PARTS = [*list('{}[]",:\\ \n0123456789-+.eEtrufalsn/bxé🚀'), "true", "null", '"a"', '"b":', "\\u00e9", "{}"]


def accepts(text: str) -> bool:
    scanner = JsonScanner()
    return all(scanner.step(char) for char in text) and scanner.done


def loads(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=lambda name: 1 / 0), dict | list) and text == text.rstrip()
    except (ValueError, ZeroDivisionError):
        return False


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 4 else 5)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {word(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, rng.random() < 0.5, rng.randrange(-(10**6), 10**6), rng.uniform(-1e9, 1e-9), word(rng)][kind]


def word(rng: random.Random) -> str:
    return "".join(rng.choice('ab"\\/{}[],: \n\té🚀\x7f') for _ in range(rng.randrange(6)))


def test_random_documents_and_their_mutations() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        text = json.dumps([value(rng)], ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        assert accepts(text)
        place = rng.randrange(len(text))
        for other in (text[:place] + text[place + 1 :], text[:place] + rng.choice(PARTS) + text[place:]):
            assert accepts(other) == loads(other), other


def test_random_text() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        text = "[" + "".join(rng.choice(PARTS) for _ in range(rng.randrange(6))) + "]"
        assert accepts(text) == loads(text), text


@pytest.mark.parametrize(
    "text", ["[" * 201, "[NaN]", "[01]", "[1.]", '{"a"}', "[,]", "[1,]", '["\t"]', "[tru]", "1", ""]
)
def test_what_is_refused(text: str) -> None:
    assert not accepts(text)


def test_members_in_any_order_and_with_any_neighbours() -> None:
    rng = random.Random(2)
    for _ in range(500):
        arguments = json.dumps({word(rng): value(rng) for _ in range(3)}, ensure_ascii=False)
        members = [f'"name": {json.dumps("f")}', f'"arguments" : {arguments} ', f'"more": {json.dumps(value(rng))}']
        rng.shuffle(members)
        call, taken = CallText(), ""
        for char in "{" + ", ".join(members) + "}":
            assert call.step(char)
            if call.ready:
                taken += call.take()
        assert (call.done, call.name, taken) == (True, "f", arguments)
