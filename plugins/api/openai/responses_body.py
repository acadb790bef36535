"""What may a request for a response say? Field names and meanings are those of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.bodies import FAIL_FAST, ChatBody, Strings
from maxserve.plugins.api.common.fields import Body

MOST_TOOLS = 1024


class Part(Body):
    """A part of content, of any type; what answers carry besides text may come back and is not looked at."""

    type: str
    text: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


Parts = Annotated[list[Part], FAIL_FAST]


class InnerTool(Body):
    """A tool within a namespace."""

    type: str
    name: str | None = Field(None, min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = Field(None, description="of the input of a custom tool")
    execution: str | None = Field(None, description="whose search for tools it is: the client's, or the server's")
    environment: dict[str, Any] | None = Field(None, description="of a shell")
    defer_loading: bool | None = Field(None, description="no effect: the model reads of all tools at once")
    output_schema: Any = None
    allowed_callers: list[Any] | None = None


class Tool(InnerTool):
    """A tool of any type, or a namespace of them."""

    tools: Annotated[list[InnerTool], FAIL_FAST] | None = None


class Item(Body):
    """An item of the input, of any type; which fields it needs is known once it is translated."""

    type: str | None = Field(None, description="a message, if it has a role and no type")
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Parts | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: str | None = None
    action: dict[str, Any] | None = None
    operation: dict[str, Any] | None = None
    output: Any = None
    tools: list[Any] | None = None
    execution: str | None = None
    caller: Any = None
    summary: Parts | None = None
    encrypted_content: str | None = None


class AllowedTool(Body):
    type: str
    name: str | None = None
    namespace: str | None = None


class NamedTool(AllowedTool):
    """The tool that must be called, or those that may be."""

    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[AllowedTool], FAIL_FAST] | None = None


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    effort: str | None = Field(None, min_length=1, max_length=32)
    summary: str | None = None
    generate_summary: str | None = None


class StreamOptions(Body):
    include_obfuscation: bool | None = None


class ResponseBody(Body):
    """A conversation to be continued by one response, which is not kept."""

    model: str | None = Field(None, description="the served model's name; empty or missing means the same")
    input: str | Annotated[list[Item], FAIL_FAST]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS), FAIL_FAST] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(None, description="prefixes are shared without asking; see cache_salt")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include: Strings | None = None
    truncation: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    service_tier: str | None = None
    top_logprobs: int | None = Field(None, ge=0)
    client_metadata: Any = Field(None, description="no effect")
    max_tool_calls: int | None = Field(None, description="no effect: it counts calls to tools that a provider runs")
    prompt_cache_options: Any = Field(None, description="no effect")
    prompt_cache_retention: Any = Field(None, description="no effect")
    context_management: Any = Field(None, description="no effect: nothing is compacted")
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
    ("background", bool, f"{_KEPT} to be fetched later; stream it"),
    ("previous_response_id", lambda _: True, f"{_KEPT}; send the whole conversation as input"),
    ("conversation", lambda _: True, f"{_KEPT}; send the whole conversation as input"),
    ("prompt", lambda _: True, "this server keeps no prompts; send instructions and input"),
    ("top_logprobs", bool, "responses come without logprobs; /v1/chat/completions may have them"),
)
_UNDONE: tuple[tuple[str, Callable[[ResponseBody], bool], str], ...] = (
    ("store", lambda body: bool(body.store), f"{_KEPT}, so nothing can refer to this one"),
    ("service_tier", lambda body: body.service_tier not in (None, "auto", "default"), "there is one tier: default"),
    (
        "text.verbosity",
        lambda body: body.text is not None and body.text.verbosity not in (None, "medium"),
        "cannot be chosen here; say in the instructions how long answers should be",
    ),
    (
        "truncation",
        lambda body: body.truncation not in (None, "disabled"),
        "nothing is left out of a conversation; one that is too long is refused",
    ),
)


def check_response(body: ResponseBody) -> list[str]:
    """A line for each thing that is left undone; RequestError for what would change the answer."""
    for name, asks, reason in _REFUSED:
        value = getattr(body, name)
        if value is not None and asks(value):
            raise RequestError(f"{name}: {reason}", param=name, code="unsupported_parameter")
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options is for streams only; set stream", param="stream_options")
    if "message.output_text.logprobs" in (body.include or ()):
        message = "include: message.output_text.logprobs is not supported"
        raise RequestError(message, param="include", code="unsupported_parameter")
    return [f"{name}: {reason}" for name, asked, reason in _UNDONE if asked(body)]
