"""The checks of chat templates take what is right and find what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.testing.chat_template import ChatTemplateChecks

HI = {"role": "user", "content": "Hi"}


class Dialog:
    """Writes what is said, message by message."""

    def source(self, *, tools: bool = False) -> str | None:
        return None

    def render(self, variables: Any, *, tools: bool = False) -> str:
        if not variables["messages"]:
            raise RequestError("nothing was said", param="messages")
        return "".join(f"{message['content']}<end>" for message in variables["messages"])

    def end_tokens(self, special: Any, added: Any) -> list[str]:
        return [text for text in ("<end>",) if text in added]


class TestDialog(ChatTemplateChecks):
    plugin: Any = SimpleNamespace(
        maxserve_chat_template=lambda context: Dialog() if (Path(context.path) / "dialog").exists() else None
    )
    conversations = (({"messages": [HI]}, "Hi<end>"), ({"messages": [HI, HI]}, "Hi<end>Hi<end>"))
    refused = ({"messages": []},)
    added = ("<end>", "</s>")
    ends = ("<end>",)

    def write_files(self, folder: Path) -> None:
        (folder / "dialog").touch()


class Forgetful(Dialog):
    """Takes the messages away."""

    def render(self, variables: Any, *, tools: bool = False) -> str:
        text = super().render(variables)
        variables["messages"].clear()
        return text


class Endless(Dialog):
    """Names an end that the model does not have."""

    def end_tokens(self, special: Any, added: Any) -> list[str]:
        return ["<end>"]


class Patient(Dialog):
    """Refuses nothing."""

    def render(self, variables: Any, *, tools: bool = False) -> str:
        return "".join(f"{message['content']}<end>" for message in variables["messages"])


@pytest.mark.parametrize(
    ("template", "check"),
    [
        (Forgetful, "test_conversations_become_text"),
        (Endless, "test_messages_end_with_added_tokens"),
        (Patient, "test_what_it_does_not_take_is_refused"),
    ],
)
def test_what_is_wrong_is_found(template: type[Dialog], check: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(TestDialog(), check)(template())
