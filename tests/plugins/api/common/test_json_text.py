"""Right JSON is written as it came, and what models write instead of it becomes JSON."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxserve.plugins.api.common.argument_types import ArgumentType
from maxserve.plugins.api.common.call_arguments import CallArguments
from maxserve.plugins.api.common.call_text import CallText
from maxserve.plugins.api.common.json_text import JsonText

PARTS = [*list('{}[]",:\\ \n0123456789-+.eEtrufalsn/bxé🚀'), "true", "null", '"a"', '"b":', "\\u00e9", "{}", "\\ud800"]


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: 1 / 0)


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 4 else 5)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {word(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, rng.random() < 0.5, rng.randrange(-(10**6), 10**6), rng.uniform(-1e9, 1e-9), word(rng)][kind]


def word(rng: random.Random) -> str:
    return "".join(rng.choice('ab"\\/{}[],: \n\té🚀\x7f') for _ in range(rng.randrange(6)))


def written(text: str, *, completed: bool = True, kind: ArgumentType | None = None) -> str:
    json_text = JsonText(kind)
    whole = json_text.feed(text)
    assert whole or not json_text.done
    return json_text.take() + (json_text.close() if completed else "")


def test_random_documents_are_written_as_they_came() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        text = json.dumps([value(rng)], ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        assert written(text, completed=False) == text


def test_whatever_comes_json_is_written() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        text = rng.choice("[{") + "".join(rng.choice(PARTS) for _ in range(rng.randrange(9)))
        result = written(text)
        assert type(strict(result)) in (dict, list), text
        result.encode()


def test_mutations_of_documents() -> None:
    rng = random.Random(2)
    for _ in range(1500):
        text = json.dumps([value(rng)], ensure_ascii=rng.random() < 0.5)
        place = rng.randrange(1, len(text))
        for other in (text[:place], text[:place] + text[place + 1 :], text[:place] + rng.choice(PARTS) + text[place:]):
            strict(written(other))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{'a': True, 'b': [False, None]}", '{"a": true, "b": [false, null]}'),
        ("""{'a': 'say "x"', "b": "it's"}""", """{"a": "say \\"x\\"", "b": "it's"}"""),
        ("{'it\\'s': 1}", """{"it's": 1}"""),
        ('{"a": "1\n2\t3"}', '{"a": "1\\n2\\t3"}'),
        ('{"a": "\\d+\\s"}', '{"a": "\\\\d+\\\\s"}'),
        ('{"a": [1, 2,], }', '{"a": [1, 2]}'),
        ('{"a": 1 "b": 2}', '{"a": 1 ,"b": 2}'),
        ('{"a": [1, {"b": 2]}', '{"a": [1, {"b": 2}]}'),
        ('{"a": .5, "b": 007, "c": 1_000, "d": +1}', '{"a": 0.5, "b": 7, "c": 1000, "d": 1}'),
        ('{"a": NaN, "b": -Infinity}', '{"a": null, "b": null}'),
        (
            '{"a": "\\ud800", "b": "\\ud83d\\ude80", "\ud800": 1}',
            '{"a": "\\ufffd", "b": "\\ud83d\\ude80", "\\ufffd": 1}',
        ),
        ('{"a": "\\udc00\\ud83dx"}', '{"a": "\\ufffd\\ufffdx"}'),
    ],
)
def test_what_is_put_right(text: str, result: str) -> None:
    assert written(text, completed=False) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('{"a": "lo', '{"a": "lo"}'),
        ('{"a": "lo\\', '{"a": "lo"}'),
        ('{"a": "\\ud83d', '{"a": "\\ufffd"}'),
        ('{"a": 1, "b', '{"a": 1}'),
        ('{"a": 1, "b": ', '{"a": 1}'),
        ('{"a": [tr', '{"a": [true]}'),
        ('{"a": 12.', '{"a": 12}'),
        ('{"a": -', "{}"),
        ('{"a": {"b": [1,', '{"a": {"b": [1]}}'),
    ],
)
def test_what_breaks_off_is_completed(text: str, result: str) -> None:
    assert written(text) == result


@pytest.mark.parametrize("text", ["[" * 201, "[01x]", '{"a"}x', "[,]", "[tru]", "[1}", "1", "{a: 1}", '{"a" 1}', "[<"])
def test_what_cannot_be_understood(text: str) -> None:
    json_text = JsonText()
    assert not json_text.feed(text) or (json_text.done and not json_text.step("x"))


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


KIND = ArgumentType(
    {
        "type": "object",
        "properties": {
            "count": {"type": "integer"},
            "code": {"type": "string"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "place": {"$ref": "#/$defs/Place"},
        },
        "$defs": {"Place": {"type": "object", "properties": {"on": {"type": "boolean"}, "words": {"type": "string"}}}},
    }
)

ARGUMENTS = [
    ('{ "a" : [1, {}] }', '{ "a" : [1, {}] }'),
    ('"{\\"city\\": \\"Bonn \\\\u00fc\\"}"', '{"city": "Bonn \\u00fc"}'),
    ('"{\\n  \\"a\\": 1\\n}" ', '{\n  "a": 1\n}'),
    ("\"{'a': None}\"", '{"a": null}'),
    ("", "{}"),
    ("null", "{}"),
    ('"null"', "{}"),
    ("[1]", "{}"),
    ('{"count": "5", "code": 12345, "other": "5"}', '{"count": 5, "code": "12345", "other": "5"}'),
    ('{"count": "many", "code": "5"}', '{"count": "many", "code": "5"}'),
    ('{"tags": "[\\"a\\", \\"b\\"]"}', '{"tags": ["a", "b"]}'),
    ('{"tags": [1, "x", true]}', '{"tags": ["1", "x", "true"]}'),
    ('{"tags": "null", "count": 7.0}', '{"tags": null, "count": 7}'),
    ('{"place": {"on": "True", "words": "True"}}', '{"place": {"on": true, "words": "True"}}'),
    ('{"place": "{\\"on\\": \\"false\\"}"}', '{"place": {"on": false}}'),
    ('{"count": "\\ud800", "tags": "[\\"\\\\ud800\\"]"}', '{"count": "\\ufffd", "tags": ["\ufffd"]}'),
]


@pytest.mark.parametrize(("text", "result"), ARGUMENTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_arguments_that_leave_are_the_text_of_an_object(text: str, result: str, size: int) -> None:
    arguments = CallArguments(KIND)
    told = "".join(arguments.feed(text[i : i + size]) for i in range(0, len(text), size)) + arguments.close()
    assert told == result


@given(text=st.text(alphabet="{}[]\"':, \\untrue0-1xé\ud800", max_size=30), cuts=st.lists(st.integers(0, 30)))
@settings(max_examples=500, deadline=None)
def test_arguments_do_not_depend_on_the_cuts(text: str, cuts: list[int]) -> None:
    whole, pieces = CallArguments(KIND), CallArguments(KIND)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    told = "".join(pieces.feed(text[a:b]) for a, b in pairwise(places)) + pieces.close()
    assert told == whole.feed(text) + whole.close()
    assert isinstance(json.loads(told), dict)
    told.encode()
