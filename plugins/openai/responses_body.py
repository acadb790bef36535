"""What may a request for a response say? Field names and meanings are those of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from maxserve.core.answers.bodies import FAIL_FAST, ChatBody, Strings
from maxserve.core.errors import RequestError
from maxserve.core.server.fields import Body

MOST_TOOLS = 1024


class Part(Body):
    """A part of content, of any type; what answers carry besides text may come back and is not looked at."""

    type: str
    text: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


Parts = Annotated[list[Part], FAIL_FAST]


class Item(Body):
    """An item of the input, of any type; which fields it needs is told when it is translated."""

    type: str | None = Field(None, description="a message, if it has a role and no type")
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Parts | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None
    summary: Parts | None = None
    encrypted_content: str | None = None


class Tool(Body):
    type: str
    name: str | None = Field(None, min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Body):
    type: str
    name: str | None = None


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    effort: str | None = Field(None, min_length=1, max_length=32)
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Body):
    include_obfuscation: bool | None = None


class ResponseBody(Body):
    """A conversation to be continued by one response, which is not kept."""

    model: str | None = Field(None, description="the served model's name; empty or missing means the same")
    input: str | Annotated[list[Item], Field(min_length=1), FAIL_FAST]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS), FAIL_FAST] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(None, description="prefixes are shared without asking; see cache_salt")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include: Strings | None = None
    truncation: Literal["disabled", "auto"] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    service_tier: str | None = None
    top_logprobs: int | None = Field(None, ge=0)
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def owner(self) -> str | None:
        return self.user or self.safety_identifier


class ResponseChat(ChatBody):
    """The chat that a response goes on with: its limit goes by the name the client gave it."""

    @property
    def token_limit(self) -> tuple[str, int | None]:
        return "max_output_tokens", self.max_tokens


_KEPT = "this server keeps no responses"
_REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("store", bool, f"{_KEPT}; send false"),
    ("background", bool, f"{_KEPT} to be fetched later; stream it"),
    ("previous_response_id", lambda _: True, f"{_KEPT}; send the whole conversation as input"),
    ("conversation", lambda _: True, f"{_KEPT}; send the whole conversation as input"),
    ("prompt", lambda _: True, "this server keeps no prompts; send instructions and input"),
    ("truncation", lambda value: value != "disabled", "nothing is left out of a conversation; send disabled"),
    ("service_tier", lambda value: value not in ("auto", "default"), "there is one tier: default"),
    ("top_logprobs", bool, "responses come without logprobs; /v1/chat/completions may have them"),
)


def check_response(body: ResponseBody) -> None:
    """RequestError for what this server does not do."""
    for name, asks, reason in _REFUSED:
        value = getattr(body, name)
        if value is not None and asks(value):
            raise RequestError(f"{name}: {reason}", param=name, code="unsupported_parameter")
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options is for streams only; set stream", param="stream_options")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise RequestError(f"{param}: nothing is obfuscated", param=param, code="unsupported_parameter")
    if "message.output_text.logprobs" in (body.include or ()):
        message = "include: message.output_text.logprobs is not supported"
        raise RequestError(message, param="include", code="unsupported_parameter")
