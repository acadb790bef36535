"""Messages of blocks that agents send, as the messages of a chat."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.anthropic.bodies import MessageBody
from maxserve.plugins.api.anthropic.conversation import messages_of

USER = {"role": "user", "content": "Hi"}
ROUND = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "I search."},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "s1",
            "content": [{"type": "web_search_result", "url": "https://a", "title": "A", "encrypted_content": "zzz"}],
        },
        {"type": "text", "text": "Found."},
    ],
}


def messages(*turns: Any, **fields: Any) -> list[dict[str, Any]]:
    return messages_of(MessageBody.model_validate({"max_tokens": 50, "messages": list(turns), **fields}))


def test_system_messages_stay_where_they_stand() -> None:
    first = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    notes: list[Any] = [
        {"role": "system", "content": [{"type": "text", "text": "n"}]},
        {"role": "system", "content": "m"},
    ]
    found = messages(first, *notes, USER, system="S")
    assert [(message["role"], message["content"]) for message in found] == [
        ("system", "S"),
        ("user", "a"),
        ("system", [{"type": "text", "text": "n"}, {"type": "text", "text": "m"}]),
        ("user", "Hi"),
    ]


@pytest.mark.parametrize(
    ("system", "found"),
    [
        (["x-anthropic-billing-header: cc_version=2; cch=1f;", "Be brief."], ["Be brief."]),
        (["x-anthropic-billing-header: cc_version=2; cch=1f;"], []),
        (["Say x-anthropic-billing-header: y"], ["Say x-anthropic-billing-header: y"]),
    ],
)
def test_the_header_that_differs_from_request_to_request_is_left_out(system: list[str], found: list[str]) -> None:
    blocks = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in system]
    assert [m["content"] for m in messages(USER, system=blocks) if m["role"] == "system"] == found


def test_tools_that_ran_at_a_provider_are_calls_and_results() -> None:
    call = {"id": "s1", "type": "function", "function": {"name": "web_search", "arguments": '{"query": "x"}'}}
    result = '[{"type": "web_search_result", "title": "A", "url": "https://a"}]'
    assert messages(USER, ROUND) == [
        USER,
        {"role": "assistant", "content": "I search.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "s1", "name": "web_search", "content": result},
        {"role": "assistant", "content": "Found."},
    ]


TEXT = [{"type": "text", "text": "t"}]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
            "T\nd",
        ),
        ({"type": "document", "source": {"type": "content", "content": TEXT}}, "t"),
        ({"type": "document", "source": {"type": "content", "content": "c"}, "context": "C"}, "C\nc"),
        ({"type": "search_result", "title": "T", "source": "https://a", "content": TEXT}, "T\nhttps://a\nt"),
        ({"type": "tool_reference", "tool_name": "f"}, "The tool f can be called."),
        ({"type": "compaction", "content": "So far."}, "So far."),
        ({"type": "text", "text": "t", "citations": [{"type": "char_location"}]}, "t"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_blocks_of_text(block: Any, text: str, inside: bool) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    [message] = messages({"role": "user", "content": [result if inside else block]})
    assert message["content"] == text


def test_what_a_model_cannot_be_shown_is_left_out() -> None:
    unseen = [{"type": "redacted_thinking", "data": "zz"}, {"type": "fallback", "to": {}}]
    thought = {"type": "thinking", "thinking": "", "signature": "s"}
    assert messages(USER, {"role": "assistant", "content": [*unseen, thought, *TEXT]}) == [
        USER,
        {"role": "assistant", "content": "t"},
    ]


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "compaction", "encrypted_content": "zz"}, "messages[0].content[0].content"),
        ({"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}}, "messages[0].content[0].source"),
        (
            {"type": "document", "source": {"type": "content", "content": [5]}},
            "messages[0].content[0].source.content[0]",
        ),
        ({"type": "wizardry"}, "messages[0].content[0].type"),
        ({"type": "tool_reference"}, "messages[0].content[0].tool_name"),
    ],
)
def test_refusals_name_the_block(block: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        messages({"role": "user", "content": [block]})
    assert caught.value.param == param


@pytest.mark.anyio
async def test_system_messages_reach_the_model(client: httpx.AsyncClient, engine: Any) -> None:
    """What Claude Code has sent since 2.1.154."""
    note = {"role": "system", "content": [{"type": "text", "text": "Today is Monday."}]}
    body = {
        "max_tokens": 2,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            note,
            {"role": "user", "content": "Go on"},
        ],
    }
    response = await client.post("/v1/messages?beta=true", json=body)
    assert response.status_code == 200, response.text
    prompt = engine.tokenizer.decode(engine.requests[0].prompt)
    assert prompt == "system: Be brief.\nuser: Hi\nsystem: Today is Monday.\nuser: Go on\nassistant:"
