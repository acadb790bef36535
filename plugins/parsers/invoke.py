"""<invoke name="f"><parameter name="a">value</parameter></invoke> within the tags of a family."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import ClassVar

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Reading
from maxserve.plugins.parsers.typed_calls import TaggedCalls

_KEY_END = '"'


class Invoke(TaggedCalls):
    """The marker around the calls makes them calls."""

    prefix: ClassVar[str] = ""  # of the tags' names
    blocks: ClassVar[tuple[str, ...]] = ()  # names of the tags around all calls

    def __init__(self, context: ToolContext) -> None:
        self.key_tag = (f'<{self.prefix}parameter name="', _KEY_END)
        self.value_end = f"</{self.prefix}parameter>"
        self.call_end = f"</{self.prefix}invoke>"
        self._invoke = f'<{self.prefix}invoke name="'
        self._blocks_end = tuple(f"</{block}>" for block in self.blocks)
        self.behind = (self._invoke, *self._blocks_end)
        super().__init__(context)

    def read(self) -> Generator[None, str, None]:
        blocks = tuple(f"<{block}>" for block in self.blocks)
        while opener := (yield from self.content_until(*blocks)):
            before = opener + (yield from self.blanks())
            if not (yield from self.skip(self._invoke)):
                self.content(before)
                continue
            before += self._invoke
            while (yield from self._call(before)) and (yield from self.skip(self._invoke)):
                before = self._invoke
            yield from self.skip_any(*self._blocks_end)

    def _call(self, before: str) -> Reading:
        name, end = yield from self.text_until('">', "'>", "\n")
        if not end.endswith(">") or not name.strip():
            self.content(before + name + end)
            return ""
        self.begin_object(name.strip())
        while (yield from self.skip(self.key_tag[0])):
            key, end = yield from self.text_until(_KEY_END)
            attributes, _ = yield from self.text_until(">")
            if not end:
                break
            self._argument(key, attributes, (yield from self.value()))
        if (yield from self.skip(self.call_end)) or (yield from self.peek()):
            self.end_object()
        return "call"

    def _argument(self, key: str, attributes: str, text: str) -> None:
        self.text_argument(key, text)


class MiniMaxM2(Invoke):
    prefix = ""
    blocks = ("minimax:tool_call",)


class DeepSeekV32(Invoke):
    """V3.2 and V4 say of each value whether it is text or JSON."""

    prefix = "｜DSML｜"
    blocks = ("｜DSML｜function_calls", "｜DSML｜tool_calls")

    def _argument(self, key: str, attributes: str, text: str) -> None:
        if 'string="true"' in attributes:
            self.argument(key, text)
            return
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            self.text_argument(key, text)
        else:
            self.argument(key, value)


def minimax_m2(template: str) -> int:
    return 100 if "<minimax:tool_call>" in template else 0


def deepseek_v32(template: str) -> int:
    return 100 if "｜DSML｜" in template else 0
