from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pydantic
import pytest

from maxserve.core.http.failures import Failure
from maxserve.core.interfaces.errors import WorkerDied
from maxserve.core.interfaces.parsers import CallDelta
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.openai.responses_body import ResponseBody
from maxserve.plugins.api.openai.responses_events import ResponseEvents
from maxserve.plugins.api.openai.responses_input import ResponseTranslation
from maxserve.plugins.api.openai.responses_items import NewItems, ResponseObject, items_of, statuses
from maxserve.plugins.api.openai.responses_messages import messages_of
from maxserve.plugins.api.openai.responses_tools import ResponseTools

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
PROMPT = "user: Hi\nassistant:"


PDF = {"type": "input_file", "file_data": ""}


def named_events(text: str) -> list[Any]:
    """The data of each event, whose name is that of its type, and whose number is the next one."""
    found = []
    for number, lines in enumerate(text[:-2].split("\n\n")):
        name, data = lines.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert (name, number) == (f"event: {found[-1]['type']}", found[-1]["sequence_number"])
    return found


async def test_whole_answer(client: httpx.AsyncClient, engine: Any) -> None:
    engine.cached = 4
    body = {"model": "acme/tiny", "input": "Hi", "instructions": "Be short.", "user": "ann", "metadata": {"a": "b"}}
    response = await client.post(PATH, json=body, headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["id"], answer["object"], answer["status"]) == ("resp_abc-1", "response", "completed")
    assert answer["incomplete_details"] is answer["error"] is None
    content = {"type": "output_text", "text": "Hello there, friend.", "annotations": [], "logprobs": []}
    message = {"id": "msg_abc-1_0", "type": "message", "status": "completed", "role": "assistant", "content": [content]}
    assert answer["output"] == [message]
    assert (answer["instructions"], answer["user"], answer["metadata"]) == ("Be short.", "ann", {"a": "b"})
    assert (answer["tools"], answer["tool_choice"], answer["store"]) == ([], "auto", False)
    assert answer["temperature"] == 0.7  # the model's own
    length = len("system: Be short.\n" + PROMPT)
    assert answer["usage"] == {
        "input_tokens": length,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 21,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": length + 21,
    }
    assert engine.requests[0].user == "ann"


@pytest.mark.parametrize("limit", [None, 5])
async def test_stream(client: httpx.AsyncClient, engine: Any, limit: int | None) -> None:
    engine.step = 4
    text, status = ("Hello", "incomplete") if limit else ("Hello there, friend.", "completed")
    response = await client.post(PATH, json={"input": "Hi", "stream": True, "max_output_tokens": limit})
    told = named_events(response.text)
    created, progress, added, part, *deltas, done, part_done, item, last = told
    assert created["response"]["output"] == []
    assert (created["type"], progress["type"]) == ("response.created", "response.in_progress")
    assert (added["item"]["content"], part["part"]["text"]) == ([], "")
    assert {delta["type"] for delta in deltas} == {"response.output_text.delta"}
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == part_done["part"]["text"] == text
    assert (last["type"], last["response"]["status"], item["item"]["status"]) == (f"response.{status}", status, status)
    assert last["response"]["output"] == [item["item"]]
    whole = (await client.post(PATH, json={"input": "Hi", "max_output_tokens": limit})).json()
    assert whole["output"][0]["content"] == last["response"]["output"][0]["content"]
    assert whole["incomplete_details"] == last["response"]["incomplete_details"]
    assert whole["usage"] == last["response"]["usage"]


async def test_an_answer_of_nothing_is_an_empty_message(client: httpx.AsyncClient, engine: Any) -> None:
    engine.reply = lambda request: [engine.eos]
    whole = (await client.post(PATH, json={"input": "Hi"})).json()
    told = named_events((await client.post(PATH, json={"input": "Hi", "stream": True})).text)
    contents = [r["output"][0]["content"][0]["text"] for r in (whole, told[-1]["response"])]
    assert contents == ["", ""]


async def test_a_failure_within_a_stream(client: httpx.AsyncClient, engine: Any, recorder: Any) -> None:
    engine.failure = WorkerDied("gone")
    *_, error, last = named_events((await client.post(PATH, json={"input": "Hi", "stream": True})).text)
    assert (error["type"], error["code"]) == ("error", "service_unavailable")
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "service_unavailable"
    assert [stats.status for stats in recorder.stats] == [503]


def test_a_conversation_becomes_messages() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is 2+2?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Sum."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":2}'},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "4"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "5"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]},
        {"role": "developer", "content": "Be short."},
    ]
    first, second = (
        {"id": f"c{n}", "type": "function", "function": {"name": "add", "arguments": a}}
        for n, a in ((1, '{"a":2}'), (2, "{}"))
    )
    assert messages_of(ResponseBody.model_validate({"input": items})) == [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "", "reasoning_content": "Sum.", "tool_calls": [first, second]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "tool", "tool_call_id": "c2", "content": "5"},
        {"role": "assistant", "content": "4"},
        {"role": "developer", "content": "Be short."},
    ]


def deltas() -> list[TextDelta]:
    return [
        TextDelta(tokens=(1, 2), reasoning="Let me "),
        TextDelta(tokens=(3,), reasoning="see."),
        TextDelta(tokens=(4,), text="I will add."),
        TextDelta(tokens=(5,), calls=(CallDelta(index=0, id="c1", name="add", arguments='{"a"'),)),
        TextDelta(tokens=(6,), calls=(CallDelta(index=0, arguments=":1}"),)),
        TextDelta(tokens=(7,), calls=(CallDelta(index=1, id="c2", name="sub", arguments="{}"),)),
        TextDelta(tokens=(8,), finish="stop", called=True),
    ]


NEW = NewItems("r", ResponseTools((), None))


def test_reasoning_and_calls_whole_and_streamed(context: Any) -> None:
    response = ResponseObject(ResponseBody.model_validate({"input": "Hi"}), context.model, context.model.name, "r", ())
    encoder, answer = ResponseEvents(response, NEW, Meter((), PATH)), Answer()
    text = encoder.opening()
    for delta in deltas():
        answer.add(delta)
        text += encoder.delta(0, delta)
    told = named_events((text + encoder.closing(0, deltas()[-1])).decode())
    output = told[-1]["response"]["output"]
    items = items_of(answer, NEW)
    assert output == [item.shown(state) for item, state in zip(items, statuses(4, answer.finish)[1], strict=True)]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert [(o["call_id"], o["name"], o["arguments"]) for o in output[2:]] == [
        ("c1", "add", '{"a":1}'),
        ("c2", "sub", "{}"),
    ]
    assert answer.reasoning_tokens == told[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] == 3
    by_type = [event["type"] for event in told]
    assert by_type.count("response.reasoning_text.delta") == 2
    assert by_type.count("response.function_call_arguments.delta") == 3
    assert by_type.count("response.output_item.added") == by_type.count("response.output_item.done") == 4
    failed = encoder.failed(Failure(status=500, message="bad"))
    assert b"response.failed" in failed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "compaction", "encrypted_content": "zz"}]}, "input[0].type"),
        ({"input": [{"type": "custom_tool_call", "name": "f", "call_id": "c"}]}, "input[0].input"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [PDF]}]}, "input[0].output[0].type"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "wizardry"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "m"}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"n": 2}, "n"),
        ({"stop": "x"}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, fields: Any, param: str) -> None:
    response = await client.post(PATH, json={"input": "Hi", **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert param.rpartition(".")[2] in error["message"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"tools": [{"type": "web_search", "external_web_access": False}]}, "tools[0].type"),
        ({"tools": [{"type": "image_generation", "output_format": "png"}]}, "tools[0].type"),
        ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools[0].type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ],
)
async def test_what_is_left_undone_is_warned_of(client: httpx.AsyncClient, fields: Any, named: str) -> None:
    response = await client.post(PATH, json={"input": "Hi", **fields})
    assert response.status_code == 200, response.text
    assert named in " ".join(response.json()["warnings"])
    assert response.json()["store"] is False


async def test_a_limit_beyond_the_context_ends_where_the_context_does(client: httpx.AsyncClient, engine: Any) -> None:
    engine.reply = lambda request: [65] * 5000
    answer = (await client.post(PATH, json={"input": "Hi", "max_output_tokens": 64_000})).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["usage"]["total_tokens"] == 256


async def test_too_long_an_input_is_called_input(client: httpx.AsyncClient) -> None:
    error = (await client.post(PATH, json={"input": "x" * 300})).json()["error"]
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")


async def test_instructions_alone_are_enough(client: httpx.AsyncClient) -> None:
    """Agents warm the cache with them before anything was typed."""
    probe = {"input": [], "instructions": "Be brief.", "max_output_tokens": 1}
    assert (await client.post(PATH, json=probe)).status_code == 200


async def test_defaults_of_clients_are_fine(client: httpx.AsyncClient) -> None:
    body = {
        "input": [{"role": "user", "content": "Hi"}],
        "store": False,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "truncation": "disabled",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "include": [],
        "client_metadata": {"a": "b"},
        "max_tool_calls": 3,
        "prompt_cache_retention": "24h",
        "n": 1,
        "stream_options": None,
        "logprobs": False,
        "wizardry": 1,
    }
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["warnings"] == ["the field 'wizardry' is not known and was ignored"]


def test_official_client(server: str, engine: Any) -> None:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as official:
        answer = official.responses.create(model="acme/tiny", input="Hi", temperature=0.2)
        assert (answer.output_text, answer.status) == ("Hello there, friend.", "completed")
        with official.responses.stream(model="acme/tiny", input="Hi") as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert "".join(deltas) == stream.get_final_response().output_text == "Hello there, friend."
        with pytest.raises(openai.NotFoundError):
            official.responses.create(model="other", input="Hi")


def test_a_format_of_the_text_is_a_response_format(context: Any) -> None:
    wanted = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    body = ResponseBody.model_validate({"input": "Hi", "text": {"format": wanted}})
    chat, _, _ = ResponseTranslation(Answering(context)).chat_body(body)
    schema = {"name": "x", "schema": {"type": "object"}, "strict": True}
    said = chat.model_dump(by_alias=True, exclude_none=True)
    assert said["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_functions_go_by_names_of_chats(context: Any) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    body = ResponseBody.model_validate(
        {"input": "Hi", "tools": [tool], "tool_choice": {"type": "function", "name": "f"}}
    )
    chat, _, warnings = ResponseTranslation(Answering(context)).chat_body(body)
    said = chat.model_dump(exclude_none=True)
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert said["tools"] == [{"type": "function", "function": function}]
    assert said["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert warnings == []


def test_official_client_reassembles_calls(context: Any) -> None:
    from openai.lib.streaming.responses._responses import ResponseStreamState
    from openai.types.responses import ResponseStreamEvent

    response = ResponseObject(ResponseBody.model_validate({"input": "Hi"}), context.model, context.model.name, "r", ())
    encoder = ResponseEvents(response, NEW, Meter((), PATH))
    text = (
        encoder.opening() + b"".join(encoder.delta(0, delta) for delta in deltas()) + encoder.closing(0, deltas()[-1])
    )
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
    events = [
        event for data in named_events(text.decode()) for event in state.handle_event(adapter.validate_python(data))
    ]
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output_text == "I will add."


async def test_tokens_are_counted_without_an_answer(client: httpx.AsyncClient, engine: Any, recorder: Any) -> None:
    body = {"input": "Hi", "instructions": "Be kind."}
    counted = (await client.post(PATH + "/input_tokens", json=body)).json()
    used = (await client.post(PATH, json=body)).json()["usage"]["input_tokens"]
    assert counted == {"object": "response.input_tokens", "input_tokens": used}
    assert len(engine.requests) == len(recorder.stats) == 1
