"""From a request for text to the deltas of its answers, over a scripted engine and without a route."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.common.answering import Answering, Generation, usage_of
from maxserve.plugins.api.common.bodies import ChatBody, TextBody
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.testing.scripted import (  # noqa: F401 (fixtures)
    ScriptedEngine,
    anyio_backend,
    context,
    engine,
    host,
    recorder,
    tokenizer,
)

pytestmark = pytest.mark.anyio

REPLY = "Hello there, friend."  # of the scripted engine, in tokens of a byte each
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def answering(context: ServerContext) -> Answering:  # noqa: F811
    return Answering(context)


@pytest.fixture
def strict(context: ServerContext) -> Answering:  # noqa: F811
    """Of a server that takes the fields it knows only."""
    return Answering(dataclasses.replace(context, sections={AnswerOptions: AnswerOptions(strict_fields=True)}))


@pytest.fixture
def chat(answering: Answering) -> Callable[..., ChatBody]:
    """Bodies of chats, with the fields of samplers."""
    body = answering.body(ChatBody)

    def made(content: Any = "Hi", **fields: Any) -> ChatBody:
        return body.model_validate({"messages": [{"role": "user", "content": content}], **fields})

    return made


async def texts(generation: Generation) -> list[str]:
    found = [""] * len(generation.plan.requests)
    async with aclosing(generation.deltas) as deltas:
        async for index, delta in deltas:
            found[index] += delta.text
    return found


async def test_a_chat_is_rendered_and_continued(
    answering: Answering,
    chat: Any,
    engine: ScriptedEngine,  # noqa: F811
) -> None:
    generation = await answering.chat(chat(), user="ann")
    assert await texts(generation) == [REPLY]
    (request,) = engine.requests
    assert answering.context.tokenizer.decode(request.prompt) == "user: Hi\nassistant:"
    assert (request.user, generation.plan.prompt_tokens) == ("ann", len(request.prompt))


async def test_the_prompt_of_a_chat_is_the_one_it_would_be_continued_from(
    answering: Answering,
    chat: Any,
    engine: ScriptedEngine,  # noqa: F811
) -> None:
    body = chat("How are you?", add_special_tokens=True)
    tokens = await answering.prompt(body)
    await texts(await answering.chat(body, user=""))
    assert tuple(tokens) == engine.requests[0].prompt


async def test_several_prompts_with_several_answers_each_are_numbered_prompt_by_prompt(
    answering: Answering,
    engine: ScriptedEngine,  # noqa: F811
) -> None:
    body = answering.body(TextBody).model_validate({"n": 2, "max_tokens": 5, "seed": 3})
    generation = await answering.complete(body, [[1, 2], [3]], user="", default_limit=16)
    assert await texts(generation) == ["Hello"] * 4
    assert [request.prompt for request in generation.plan.requests] == [(1, 2), (1, 2), (3,), (3,)]
    assert len({request.params.seed for request in generation.plan.requests[:2]}) == 2
    assert sorted(request.id for request in engine.requests) == sorted(each.id for each in generation.plan.requests)


async def test_stop_strings_and_the_limit_of_the_route_end_a_completion(answering: Answering) -> None:
    body = answering.body(TextBody)
    for fields, text in (({"stop": "there"}, "Hello "), ({}, "Hello there,")):
        generation = await answering.complete(body.model_validate(fields), [[1]], user="", default_limit=12)
        assert await texts(generation) == [text]


async def test_closing_the_deltas_ends_every_request(
    answering: Answering,
    engine: ScriptedEngine,  # noqa: F811
) -> None:
    body = answering.body(TextBody).model_validate({"n": 3})
    generation = await answering.complete(body, [[1]], user="", default_limit=None)
    async with aclosing(generation.deltas) as deltas:
        async for _ in deltas:
            break
    assert len(engine.requests) == 3
    assert engine.open == 0


async def test_a_model_that_is_not_served_is_refused(answering: Answering, chat: Any) -> None:
    with pytest.raises(RequestError, match="acme/other") as caught:
        await answering.chat(chat(model="acme/other"), user="")
    assert (caught.value.status, caught.value.param) == (404, "model")


async def test_unknown_fields_are_warned_of_or_refused(answering: Answering, strict: Answering, chat: Any) -> None:
    generation = await answering.chat(chat(temprature=1), user="")
    assert ["temprature" in warning for warning in generation.warnings] == [True]
    await texts(generation)
    with pytest.raises(RequestError, match="temprature"):
        await strict.chat(chat(temprature=1), user="")


async def test_what_a_schema_leaves_out_is_warned_of_or_refused(
    answering: Answering, strict: Answering, chat: Any
) -> None:
    body = chat(guided_json={"type": "integer", "format": "int64"})
    generation = await answering.chat(body, user="")
    assert [warning.partition(":")[0] for warning in generation.warnings] == ["guided_json"]
    assert generation.plan.requests[0].params.constraint is not None
    await texts(generation)
    with pytest.raises(RequestError, match="--strict-fields") as caught:
        await strict.chat(body, user="")
    assert caught.value.param == "guided_json"


async def test_calls_that_must_be_made_exclude_another_constraint(answering: Answering, chat: Any) -> None:
    fields = {"tools": [WEATHER], "tool_choice": "required"}
    with pytest.raises(RequestError, match="exclude each other") as caught:
        await answering.chat(chat(guided_regex="a+", **fields), user="")
    assert caught.value.param == "guided_regex"
    generation = await answering.chat(chat(response_format={"type": "json_object"}, **fields), user="")
    constraint = generation.plan.requests[0].params.constraint
    assert constraint is not None
    assert "weather" in constraint.text
    await generation.deltas.aclose()


async def test_prompts_are_cut_where_it_is_asked_for(answering: Answering, chat: Any) -> None:
    whole = await answering.prompt(chat("abcdef"))
    assert await answering.prompt(chat("abcdef", truncate_prompt_tokens=4)) == whole[-4:]
    assert await answering.prompt(chat("abcdef", truncate_prompt_tokens=4, truncation_side="right")) == whole[:4]


async def test_a_prompt_that_is_too_long_is_refused_by_the_field_that_holds_it(answering: Answering, chat: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await answering.chat(chat("x" * 300), user="")
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    body = answering.body(TextBody).model_validate({})
    with pytest.raises(RequestError) as caught:
        await answering.complete(body, [[1] * 300], user="", default_limit=None)
    assert caught.value.param == "prompt"


def test_the_account_of_a_generation() -> None:
    assert usage_of(7, 5, 4) == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert usage_of(7, 5, 4, (3, 2))["completion_tokens_details"] == {
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 2,
    }
