"""Chat templates: conversations as the text of a model's prompts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from maxserve.core.interfaces.component import Context

__all__ = ["ChatTemplate", "ChatTemplateContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplateContext(Context):
    """What a chat template is read from: `path`, the folder of the model, and the settings of plugins."""

    path: str


class ChatTemplate(Protocol):
    """What writes the prompt of a conversation. Every method may be called from several threads at once."""

    def source(self, *, tools: bool = False) -> str | None:
        """Its Jinja text, with tools or without, from which parsers are chosen; None where it is none."""
        ...

    def render(self, variables: Mapping[str, Any], *, tools: bool = False) -> str:
        """The text of JSON values: `messages`, `tools`, `documents`, `add_generation_prompt`, special tokens by role.

        RequestError where it refuses the conversation.
        """
        ...

    def end_tokens(self, special: Mapping[str, str], added: Collection[str]) -> Sequence[str]:
        """The tokens out of `added` that end an assistant's message; `special` are the special tokens by role.

        ModelError where the template cannot be used.
        """
        ...
