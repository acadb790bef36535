"""What may a request for text say? The fields that do not belong to samplers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from maxserve.core.server.constraint_fields import ConstraintFields
from maxserve.core.server.fields import Body

MOST_CHOICES = 128
MOST_STOPS = 16
LONGEST_STOP = 1000  # characters

# A list with thousands of bad items would make thousands of errors: the first one ends its validation.
FAIL_FAST = Field(fail_fast=True)
Strings = Annotated[list[str], FAIL_FAST]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], FAIL_FAST]


class StreamOptions(Body):
    include_usage: bool | None = None


class TextBody(ConstraintFields):
    """Fields that chat and plain completions share."""

    model: str | None = Field(None, description="the served model's name; empty or missing means the same")
    n: int | None = Field(None, ge=1, le=MOST_CHOICES, description="answers per prompt")
    max_tokens: int | None = Field(None, ge=1)
    stop: str | Strings | None = Field(None, description="the answer ends before any of these strings")
    stop_token_ids: Annotated[TokenIds, Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="same seed, same text; 0 is a seed")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    cache_salt: str | None = Field(None, max_length=512, description="prefixes are shared only under the same salt")

    @field_validator("stop")
    @classmethod
    def _stop_is_bounded(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MOST_STOPS:
            raise ValueError(f"at most {MOST_STOPS} stop strings are taken, got {len(stops)}")
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        if any(len(stop) > LONGEST_STOP for stop in stops):
            raise ValueError(f"a stop string may have at most {LONGEST_STOP} characters")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def token_limit(self) -> tuple[str, int | None]:
        """The field that limits the answer's tokens, and the limit that was asked for."""
        return "max_tokens", self.max_tokens

    def unknown(self) -> dict[str, Any]:
        inner = self.stream_options.unknown() if self.stream_options else {}
        return {**super().unknown(), **{f"stream_options.{name}": value for name, value in inner.items()}}


class ContentPart(Body):
    type: str
    text: str | None = None


class Message(Body):
    """One turn. Fields besides these are handed to the chat template."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], FAIL_FAST] | None = None


class ChatBody(TextBody):
    """A conversation to be continued."""

    messages: Annotated[list[Message], Field(min_length=1), FAIL_FAST]
    max_completion_tokens: int | None = Field(None, ge=1, description="wins over max_tokens")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(None, description="the answer goes on where the last message ends")
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def token_limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().token_limit
