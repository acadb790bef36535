"""What may a request for a message say? Field names and meanings are those of Anthropic's public API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from maxserve.plugins.api.common.bodies import FAIL_FAST, Strings, checked_stops
from maxserve.plugins.api.common.fields import Body

MOST_TOOLS = 1024


class Source(Body):
    """Where an image or a document is: its data, a URL, or blocks of text."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: Any = None


class Text(Body):
    """What all blocks may have, those within blocks too.

    `cache_control` asks for what prefixes get without asking; citations are not made.
    """

    type: str
    text: str | None = None
    source: Source | str | None = None
    title: str | None = None
    context: str | None = None
    content: Any = None
    tool_name: str | None = None
    tool: dict[str, Any] | None = None
    citations: Any = None
    cache_control: dict[str, Any] | None = None


class Block(Text):
    """A block of content of any type; which fields it needs is known once it is translated."""

    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | Annotated[list[Text], FAIL_FAST] | dict[str, Any] | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None  # taken and not looked at: it proves nothing to this server
    data: str | None = None
    caller: Any = None


Blocks = Annotated[list[Block], FAIL_FAST]


class InputMessage(Body):
    """A turn; those of the system may stand anywhere."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class Tool(Body):
    """A tool, the client's own or one of Anthropic's. How it is loaded and streamed changes nothing here."""

    type: str | None = None
    name: str | None = Field(None, min_length=1, max_length=256)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Any] | None = None
    allowed_callers: list[Any] | None = None


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: str | None = Field(None, description="thinking is always shown as it is")


class Metadata(Body):
    user_id: str | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    format: OutputFormat | None = None
    effort: str | None = Field(None, min_length=1, max_length=32)


class CountBody(Body):
    """A conversation whose tokens are counted."""

    model: str | None = Field(None, description="the served model's name; empty or missing means the same")
    messages: Annotated[list[InputMessage], Field(min_length=1), FAIL_FAST]
    system: str | Blocks | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS), FAIL_FAST] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="the older spelling of output_config.format")
    chat_template_kwargs: dict[str, Any] | None = None
    betas: list[Any] | None = Field(None, description="no effect: nothing here waits for a beta")
    context_management: dict[str, Any] | None = Field(None, description="no effect: nothing is cleared")
    mcp_servers: list[Any] | None = None
    thread: Any = None
    compaction: Any = None


class MessageBody(CountBody):
    """A conversation to be continued by one message."""

    max_tokens: int = Field(ge=1)
    stop_sequences: Strings | None = Field(None, description="the answer ends before any of these strings")
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: str | None = Field(None, description="no effect: there is one tier, standard")
    speed: str | None = Field(None, description="no effect: there is one speed")
    inference_geo: str | None = Field(None, description="no effect")
    cache_control: dict[str, Any] | None = Field(None, description="no effect: prefixes are shared without asking")

    @field_validator("stop_sequences")
    @classmethod
    def _stops_are_bounded(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else list(checked_stops(value))
