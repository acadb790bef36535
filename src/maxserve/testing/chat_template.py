"""Checks of chat templates.

class TestAcme(ChatTemplateChecks):
    plugin = acme  # the module with the hook
    conversations = [({"messages": [{"role": "user", "content": "Hi"}]}, "user: Hi<end>")]

    def write_files(self, folder):
        (folder / "acme.dialog").touch()
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from maxserve.core.interfaces.chat_template import ChatTemplate, ChatTemplateContext
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.registry.contracts import contract_fault

__all__ = ["ChatTemplateChecks"]


class ChatTemplateChecks:
    """Subclass it, give the `plugin`, a module with `maxserve_chat_template`, and `write_files`.

    `conversations` are variables of a rendering, each with the text that comes of them; `refused` are some that the
    template does not take. Of the tokens `added`, `ends` are those that end a message. `sections` are the plugin's
    settings, by schema.
    """

    plugin: ClassVar[ModuleType]
    conversations: ClassVar[Sequence[tuple[Mapping[str, Any], str]]] = ()
    refused: ClassVar[Sequence[Mapping[str, Any]]] = ()
    special: ClassVar[Mapping[str, str]] = {"eos_token": "</s>"}
    added: ClassVar[Collection[str]] = ("</s>",)
    ends: ClassVar[Collection[str]] = ()
    sections: ClassVar[dict[type[Any], Any]] = {}

    def write_files(self, folder: Path) -> None:
        """Writes what the hook knows a folder by."""
        raise NotImplementedError(f"{type(self).__name__} has no write_files(folder)")

    def answer(self, folder: Path) -> ChatTemplate | None:
        """What the hook says of a folder."""
        found: ChatTemplate | None = self.plugin.maxserve_chat_template(
            context=ChatTemplateContext(sections=self.sections, path=str(folder))
        )
        return found

    @pytest.fixture
    def template(self, tmp_path: Path) -> ChatTemplate:
        """The template of a folder that the hook knows."""
        self.write_files(tmp_path)
        found = self.answer(tmp_path)
        assert found is not None, "the hook knows its own folder"
        assert contract_fault("maxserve_chat_template", found) is None, contract_fault("maxserve_chat_template", found)
        return found

    def test_other_folders_are_left_to_others(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        assert self.answer(tmp_path / "other") is None

    def test_conversations_become_text(self, template: ChatTemplate) -> None:
        assert self.conversations, f"{type(self).__name__} has no conversations"
        for variables, text in self.conversations:
            given = copy.deepcopy(dict(variables))
            assert template.render(given) == text
            assert given == variables, "a rendering leaves its variables as they are"

    def test_what_it_does_not_take_is_refused(self, template: ChatTemplate) -> None:
        for variables in self.refused:
            with pytest.raises(RequestError):
                template.render(variables)

    def test_messages_end_with_added_tokens(self, template: ChatTemplate) -> None:
        assert set(template.end_tokens(self.special, self.added)) == set(self.ends)
        assert set(template.end_tokens({}, ())) == set(), "tokens that the model does not have end nothing"

    def test_it_shows_its_source_or_none(self, template: ChatTemplate) -> None:
        for tools in (False, True):
            assert isinstance(template.source(tools=tools), str | None)

    def test_threads_share_it(self, template: ChatTemplate) -> None:
        work = [variables for variables, _ in self.conversations] * 50
        with ThreadPoolExecutor(8) as threads:
            texts = list(threads.map(template.render, work))
        assert texts == [text for _, text in self.conversations] * 50
