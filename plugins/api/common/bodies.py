"""What may a request for text say? The fields that do not belong to samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import MOST_LOGPROBS
from maxserve.interfaces.tokenizer import Truncation, TruncationSide
from maxserve.plugins.api.common.constraint_fields import ConstraintFields
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.images import Placed, placed_image
from maxserve.plugins.api.common.reasoning import ReasoningFields
from maxserve.plugins.api.common.tools import ToolFields
from maxserve.plugins.api.common.truncation import truncation_of

MOST_CHOICES = 128
MOST_STOPS = 16
LONGEST_STOP = 1000  # characters

# A list with thousands of bad items would make thousands of errors: the first one ends its validation.
FAIL_FAST = Field(fail_fast=True)
Strings = Annotated[list[str], FAIL_FAST]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], FAIL_FAST]


def checked_stops(stops: Sequence[str]) -> Sequence[str]:
    """`stops`; ValueError when they are too many, or one is empty or too long."""
    if len(stops) > MOST_STOPS:
        raise ValueError(f"at most {MOST_STOPS} stop strings are taken, got {len(stops)}")
    if not all(stops):
        raise ValueError("a stop string must not be empty")
    if any(len(stop) > LONGEST_STOP for stop in stops):
        raise ValueError(f"a stop string may have at most {LONGEST_STOP} characters")
    return stops


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything in it, null included."""
        return bool(self.model_fields_set)


class TextBody(ConstraintFields):
    """Fields that chat and plain completions share."""

    model: str | None = Field(None, description="the served model's name; empty or missing means the same")
    n: int | None = Field(None, ge=1, le=MOST_CHOICES, description="answers per prompt")
    max_tokens: int | None = Field(None, ge=1, description="most tokens of an answer")
    stop: str | Strings | None = Field(None, description="the answer ends before any of these strings")
    stop_token_ids: Annotated[TokenIds, Field(max_length=1024)] | None = Field(
        None, description="the answer ends with any of these tokens, which are not shown"
    )
    ignore_eos: bool | None = Field(None, description="go on where the model would end")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="same seed, same text; 0 is a seed")
    stream: bool | None = Field(None, description="answer in server-sent events, as the text comes")
    stream_options: StreamOptions | None = Field(
        None,
        description="include_usage: a last event with the token counts; continuous_usage_stats: every event has them",
    )
    user: str | None = Field(None, description="whose request it is, for schedulers that share fairly")
    priority: int | None = Field(None, ge=-(2**31), lt=2**31, description="of those who wait, lower ones come first")
    include_stop_str_in_output: bool | None = Field(None, description="leave the stop string in the text")
    skip_special_tokens: bool | None = Field(None, description="keep special tokens out of the text; default true")
    return_token_ids: bool | None = Field(None, description="also tell the ids of prompt and answer")
    prompt_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="logprobs of the prompt, with so many likeliest tokens for each"
    )
    cache_salt: str | None = Field(None, max_length=512, description="prefixes are shared only under the same salt")
    request_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="what the answer's id ends with; without it, X-Request-Id or one of the server's"
    )
    truncate_prompt_tokens: int | None = Field(
        None, description="cut longer prompts to so many tokens, -1 to what leaves room for the answer"
    )
    truncation_side: TruncationSide | None = Field(
        None, description="where prompts are cut: at the start (left, the default) or at the end"
    )
    add_special_tokens: bool | None = Field(
        None, description="put those in that begin a text; default true, in chats false: their template does it"
    )
    return_tokens_as_token_ids: bool | None = Field(
        None, description="logprobs call each token token_id:N, so that all can be distinguished"
    )

    target_endpoint: Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="where the prompt is computed, of a server that decodes only; X-Target-Endpoint wins"
    )
    kv_transfer_params: dict[str, Any] | None = Field(
        None, description="that the prompt is computed for another server, or what such a server has answered"
    )

    @field_validator("stop")
    @classmethod
    def _stop_is_bounded(cls, value: str | list[str] | None) -> str | list[str] | None:
        checked_stops([value] if isinstance(value, str) else value or [])
        return value

    @property
    def transfer(self) -> dict[str, Any]:
        """Where keys and values of the prompt come from, or go to; empty where the request asks for neither."""
        params = self.kv_transfer_params or {}
        asked = {
            "target_endpoint": self.target_endpoint,
            "kv_transfer_params": params if any(params.values()) else None,
        }
        return {name: value for name, value in asked.items() if value}

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def token_limit(self) -> tuple[str, int | None]:
        """The field that limits the answer's tokens, and the limit that was asked for; the context is one as well."""
        return "max_tokens", self.max_tokens

    def truncation(self, longest: int, default_limit: int | None = None) -> Truncation | None:
        """How prompts are cut for a model of so many tokens; RequestError for what cannot be done."""
        limit = self.token_limit[1] if self.token_limit[1] is not None else default_limit
        room = max(1, longest - max(1, limit or 1))
        return truncation_of(self.truncate_prompt_tokens, longest, self.truncation_side or "left", room=room)

    @property
    def alternatives(self) -> int | None:
        """How many likeliest tokens are wanted beside each of the answer's; None: no logprobs at all."""
        return None

    @property
    def prompt_alternatives(self) -> int | None:
        """The same of the prompt."""
        return self.prompt_logprobs

    def unknown(self) -> dict[str, Any]:
        inner = self.stream_options.unknown() if self.stream_options else {}
        return {**super().unknown(), **{f"stream_options.{name}": value for name, value in inner.items()}}


class ContentPart(Body):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = Field(
        None, description="an object with the url of an image: data:, and https: or file: if allowed"
    )

    @model_validator(mode="after")
    def _let_others_run(self) -> ContentPart:
        """Python code, where threads take turns: without any, thousands of parts would be validated in one go."""
        return self


class Message(Body):
    """One message. Fields besides these are handed to the chat template, and so are roles that it knows.

    What a client sends back of a model's own words is taken as it is, null and empty contents too.
    """

    role: str
    content: str | Annotated[list[ContentPart], FAIL_FAST] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _texts_are_parts(cls, value: Any) -> Any:
        """Strings within a list, which some clients send, as parts of text."""
        if not isinstance(value, list):
            return value
        return [{"type": "text", "text": part} if isinstance(part, str) else part for part in value]


class ChatBody(TextBody, ToolFields, ReasoningFields):
    """A conversation to be continued."""

    messages: Annotated[list[Message], Field(min_length=1, description="the conversation so far"), FAIL_FAST]
    max_completion_tokens: int | None = Field(None, ge=1, description="wins over max_tokens")
    add_generation_prompt: bool | None = Field(
        None, description="let the prompt end where the assistant begins; default true"
    )
    continue_final_message: bool | None = Field(None, description="the answer goes on where the last message ends")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")
    logprobs: bool | None = Field(None, description="tell how likely each token was")
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="and so many likeliest ones; needs logprobs"
    )

    @property
    def images(self) -> list[Placed]:
        """The images of the conversation in order, each with where it is."""
        return [
            placed_image(part.image_url, f"messages[{i}].content[{j}].image_url")
            for i, message in enumerate(self.messages)
            if isinstance(message.content, list)
            for j, part in enumerate(message.content)
            if part.type == "image_url"
        ]

    @model_validator(mode="after")
    def _top_of_nothing(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
        return self

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def token_limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().token_limit
