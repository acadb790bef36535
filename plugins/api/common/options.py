"""Options of conversations and answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from maxserve.config import Settings
from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ConversationOptions:
    """How conversations become prompts."""

    chat_template: Annotated[
        str | None,
        Option(metavar="FILE"),
        Field(
            description="Jinja file, or JSON file with the key chat_template, that replaces the model's own template."
        ),
    ] = None
    special_tokens_in_content: Annotated[
        bool,
        Field(
            description="Let special tokens that a user's or a tool's message of a chat spells out be tokens, as "
            "transformers does; off, they are text like any other."
        ),
    ] = False


def check_conversations(_: Settings, options: ConversationOptions) -> None:
    """SettingsError for a file that is not there."""
    path = options.chat_template
    if path is not None and not Path(path).expanduser().is_file():
        raise SettingsError(f"--chat-template {path}: there is no such file")
