"""Calls as JSON objects, alone or in a list, behind a marker of the family: Granite, Phi-4 and their like."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Script


class MarkedJson(Script):
    """The marker makes the call; calls that begin an answer without it must be of declared tools."""

    openings: ClassVar[tuple[str, ...]] = ()
    closings: ClassVar[tuple[str, ...]] = ()
    bare: ClassVar[bool] = False  # whether the marker may be missing where the answer begins

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        if self.bare:
            yield from self.bare_calls(self._declared)
        while opening := (yield from self.content_until(*self.openings)):
            if opening.endswith("["):
                called = yield from self.json_calls(opening)
            else:
                called = yield from self.calls(opening)
            if called:
                yield from self.skip_any(*self.closings)


class Granite(MarkedJson):
    """3.0 has a token of its own, later ones write the tag of others."""

    openings = ("<|tool_call|>", "<tool_call>")
    closings = ("</tool_call>", "<|/tool_call|>")
    bare = True


class Phi4(MarkedJson):
    """Phi-4-mini has a pair of tokens, and a word of its own before the list."""

    openings = ("<|tool_call|>", "functools[")
    closings = ("<|/tool_call|>", "<|tool_call|>")
    bare = True


class ToolCallList(MarkedJson):
    """Nemotron Nano, Apriel and MiniMax-M1: a list, or objects on lines, within tags in the plural."""

    openings = ("<TOOLCALL>", "<tool_calls>")
    closings = ("</TOOLCALL>", "</tool_calls>")


def granite(template: str) -> int:
    """3.0 to 3.3; the templates of 4 show the tags of hermes."""
    return 100 if "<|tool_call|>" in template and "<|start_of_role|>" in template else 0


def phi4(template: str) -> int:
    return 100 if "<|tool|>" in template or "functools[" in template else 0


def tool_call_list(template: str) -> int:
    return 100 if "<TOOLCALL>" in template or "<tool_calls>" in template else 0
