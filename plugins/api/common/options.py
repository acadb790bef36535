"""Options of conversations and answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.config import Settings


@dataclass(frozen=True, slots=True)
class ConversationOptions:
    """How conversations become prompts."""

    chat_template: Annotated[
        str | None,
        Option(metavar="FILE", used_by="generation", common=True),
        Field(
            description="Jinja file, or JSON file with the key chat_template, that replaces the model's own template."
        ),
    ] = None
    special_tokens_in_content: Annotated[
        bool,
        Option(used_by="generation"),
        Field(
            description="Let special tokens that a user's or a tool's message of a chat spells out be tokens, as "
            "transformers does; off, they are text like any other."
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How answers are read, and what becomes of unknown fields."""

    strict_fields: Annotated[
        bool,
        Option(server=True),
        Field(
            description="Refuse requests with unknown fields; off, they are answered, and `warnings` names the fields."
        ),
    ] = False
    tool_parser: Annotated[
        str,
        Option(
            used_by="generation",
            metavar="NAME",
            server=True,
            registry="tool_parsers",
            no_names=("auto", "none"),
            checked=False,
            common=True,
        ),
        Field(
            description="How tool calls are read out of answers: the name of a parser (docs/parsers.md lists them), "
            "auto to go by the chat template, none to leave them in the text.",
            min_length=1,
        ),
    ] = "auto"
    reasoning_parser: Annotated[
        str,
        Option(
            used_by="generation",
            metavar="NAME",
            server=True,
            registry="reasoning_parsers",
            no_names=("auto", "none"),
            checked=False,
            common=True,
        ),
        Field(
            description="How reasoning is set apart from answers: the name of a parser (docs/parsers.md lists them), "
            "auto to go by the chat template, none to leave it in the text.",
            min_length=1,
        ),
    ] = "auto"


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """Whether prompts are repeated."""

    enable_echo: Annotated[bool, Field(description="Let requests have the prompt, and its logprobs, repeated.")] = True


def check_conversations(_: Settings, options: ConversationOptions) -> None:
    """SettingsError for a file that is not there."""
    path = options.chat_template
    if path is not None and not Path(path).expanduser().is_file():
        raise SettingsError(f"--chat-template {path}: there is no such file")
