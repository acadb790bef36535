from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.http.failures import Failure
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.renaming import renamed
from maxserve.plugins.api.common.translation import Translator, unknown_inside


class Inner(Body):
    known: int | None = None


class Outer(Body):
    inner: Inner | None = None
    items: list[Inner] | None = None


MESSAGES = [{"role": "user", "content": "Hi"}]


def translator(**options: Any) -> Translator[ChatBody]:
    answers = AnswerOptions(strict_fields=options.pop("strict", False))
    answering: Any = SimpleNamespace(
        sampler_fields=frozenset({"warmth"}),
        body=lambda base: base,
        context=Context(sections={AnswerOptions: answers}),
    )
    return Translator(answering, ChatBody, **options)


def test_what_means_the_same_everywhere_is_handed_on() -> None:
    source = Outer.model_validate({"seed": 3, "warmth": 0.5, "wizardry": 1, "cache_salt": None})
    body = translator().body({"messages": MESSAGES, "max_tokens": None}, source)
    assert (body.seed, body.max_tokens, body.cache_salt) == (3, None, None)
    assert body.unknown() == {"warmth": 0.5, "wizardry": 1}  # this base knows no samplers


@pytest.mark.parametrize("name", ["n", "stop", "user", "messages"])
def test_other_fields_of_chats_are_refused_unless_taken(name: str) -> None:
    value = MESSAGES if name == "messages" else 2 if name == "n" else "x"
    source = Outer.model_validate({name: value})
    with pytest.raises(RequestError) as refused:
        translator().body({"messages": MESSAGES}, source)
    assert refused.value.param == name
    body = translator(taken=frozenset({name})).body({"messages": MESSAGES}, source)
    assert name in body.model_fields_set


def test_without_a_source_only_what_is_said() -> None:
    assert translator().body({"messages": MESSAGES}, None).model_fields_set == {"messages"}


def test_unknown_fields_inside_are_paths() -> None:
    body = Outer.model_validate({"a": 1, "inner": {"b": 1, "known": 2}, "items": [{}, {"c": 1, "d": None}]})
    assert sorted(unknown_inside(body)) == ["inner.b", "items[1].c"]
    assert len(translator().warnings(body)) == 2
    with pytest.raises(RequestError, match="strict-fields"):
        translator(strict=True).warnings(body)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("stop", "ends"),
        ("stop[1]", "ends[1]"),
        ("stopping", "stopping"),
        ("format.schema.a", "text.a"),
        ("format.other", "shape.other"),
        (None, None),
    ],
)
def test_failures_in_other_words(param: str | None, expected: str | None) -> None:
    names = {"stop": "ends", "format.schema": "text", "format": "shape"}
    failure = renamed(Failure(status=400, message=f"{param}: bad", param=param), names)
    assert (failure.param, failure.message) == (expected, f"{expected}: bad")


def test_a_field_that_was_not_there_keeps_its_name() -> None:
    source = Outer.model_validate({"stop": "x"})
    with pytest.raises(RequestError) as refused:
        translator().body({"messages": MESSAGES}, source)
    error = refused.value
    failure = Failure(status=400, message=error.message, param=error.param, code=error.code)
    assert renamed(failure, {"stop": "ends"}) is failure
