"""The harmony format of GPT-OSS: messages in channels; analysis is reasoning, and messages to a function are calls."""

from __future__ import annotations

import re
from collections.abc import Generator

from maxserve.interfaces.parsers import Delta, ReasoningContext, Thoughts, ToolContext
from maxserve.plugins.api.common.script import Reading, Script

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_MARKERS = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)

_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL_NAME = re.compile(re.escape(_CHANNEL) + r"\s*([a-z]*)")
_OPENING = re.compile(r"\s*(?:assistant)?\s*(?:to=[^\s<]*\s*\w*)?")
_NOBODY = frozenset({"assistant", "user", "all"})  # recipients that do not make a call of a message
_BUILT_IN = frozenset({"python", "browser", "container"})  # tools the model was trained with: part of the analysis
_FUNCTIONS = "functions."
_LONGEST_HEADER = 512


def recognises(template: str) -> int:
    """For templates that write the channels of harmony."""
    return 100 if _CHANNEL in template and _MESSAGE in template else 0


class _Messages(Script):
    """What both readings share: how a message is opened.

    The recipient stands behind the role or behind the channel. The prompt has written the first role, so that an
    answer begins within a header; a later <|start|> may be forgotten.
    """

    def _opening(self) -> Reading:
        """The header that comes next, as it was written; "" when the text goes on as something else, or is over."""
        held = ""
        while char := (yield):
            held += char
            marker = next((marker for marker in _MARKERS if held.endswith(marker)), "")
            if marker in _ENDS:
                held = ""
            elif marker == _MESSAGE:
                return held
            elif marker:
                return (yield from self._header(_START if marker == _START else held))
            elif len(held) > _LONGEST_HEADER or not _may_open(held):
                self.unread(held)
                return ""
        self.content("" if _RECIPIENT.search(held) else held)
        return ""

    def _header(self, header: str) -> Reading:
        """The rest of a header, its last marker included; "" where the text ends before, as a part says nothing."""
        while char := (yield):
            header += char
            if header.endswith(_START):
                header = _START
            elif header.endswith((_MESSAGE, *_ENDS)) or len(header) > _LONGEST_HEADER:
                return header
        return ""


class HarmonyReasoning(_Messages):
    """Tells analysis as reasoning, calls as they were written, for a tool parser, and other messages as content.

    Several messages of the same kind are given as lines.
    """

    def __init__(self, context: ReasoningContext) -> None:
        self._thoughts: list[str] = []
        self._kind = ""  # of the message whose body is read: analysis, content; "" within what stays as it is
        self._seen: set[str] = set()  # kinds of which something was given
        self._joint = ""  # what goes before the text of a message
        super().__init__()
        self.unread(_opened(context.prompt))

    def content(self, text: str) -> None:
        if not text:
            return
        if self._kind:
            text, self._joint = self._joint + text, ""
            self._seen.add(self._kind)
        if self._kind == "analysis":
            self._thoughts.append(text)
        else:
            super().content(text)

    def read(self) -> Generator[None, str, None]:
        while True:
            header = yield from self._opening()
            if not header and not (yield from self.peek()):
                return
            if _recipient(header):
                yield from self._verbatim(header)
            elif not header.endswith(_ENDS):
                yield from self._message(header)

    def _verbatim(self, header: str) -> Reading:
        self.content(header)
        if header.endswith(_MESSAGE):
            self.content((yield from self._body()))
        return ""

    def _message(self, header: str) -> Reading:
        self._kind = "analysis" if _is_analysis(header) else "content"
        self._joint = "\n" if self._kind in self._seen else ""
        if not header.endswith(_MESSAGE):
            self.content(header)  # no header is as long
        yield from self._body()
        self._kind = ""
        return ""

    def _body(self) -> Reading:
        """Tells a body, and gives the end of it where it has one."""
        end = yield from self.content_until(*_ENDS, _START, _CHANNEL)
        if end in _ENDS:
            return end
        self.unread(end)
        return ""

    def _thought(self) -> str:
        thoughts = "".join(self._thoughts)
        self._thoughts.clear()
        return thoughts

    def feed(self, text: str) -> Delta:
        delta = super().feed(text)
        return Delta(content=delta.content, reasoning=self._thought())

    def finish(self) -> Delta:
        delta = super().finish()
        return Delta(content=delta.content, reasoning=self._thought())


class HarmonyCalls(_Messages):
    """Reads messages to `functions.NAME`, or to a declared tool, whatever their channel. Others stay as they are."""

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        header = yield from self._opening()
        while True:
            if header:
                yield from self._message(header)
            opener = yield from self.content_until(_START, _CHANNEL)
            if not opener:
                return
            header = yield from self._header(opener)

    def _message(self, header: str) -> Reading:
        name = self._name(_recipient(header))
        if not name:
            self.content(header)
            return ""
        if header.endswith(_ENDS):
            return self._without_arguments(name, "{}")
        blanks = yield from self.blanks()
        if (yield from self.peek()) in ("{", '"'):
            yield from self.json_object(header + blanks, name)
            return (yield from self.skip_any(*_ENDS))
        if (yield from self.skip_any(*_ENDS)):
            return self._without_arguments(name, "{}")
        if not (yield from self.peek()):  # whether arguments would have come, the reader of the answer knows
            return self._without_arguments(name, "")
        self.content(header + blanks)
        return ""

    def _without_arguments(self, name: str, arguments: str) -> str:
        self.begin(name)
        self.arguments(arguments)
        return "call"

    def _name(self, recipient: str) -> str:
        if recipient.startswith(_FUNCTIONS):
            return recipient.removeprefix(_FUNCTIONS)
        return recipient if recipient in self._declared else ""


def thoughts(context: ReasoningContext) -> Thoughts | None:
    """The analysis, which an answer begins with, and the header of the final message behind it."""
    opened = _opened(context.prompt)
    analysis = f"{_CHANNEL}analysis{_MESSAGE}"
    if opened and not (_is_analysis(opened) and opened.endswith(_MESSAGE)):
        return None
    return Thoughts(
        opening="" if opened else analysis,
        needed=True,
        closing="<|end|>",
        lead=f"{_START}assistant{_CHANNEL}final{_MESSAGE}",
        forbidden=tuple(marker for marker in _MARKERS if marker != "<|end|>"),
    )


def _may_open(held: str) -> bool:
    """Whether text can be the beginning of a header: a role, a recipient, a part of a marker."""
    text, bracket, rest = held.partition("<")
    if bracket and not any(marker.startswith(bracket + rest) for marker in _MARKERS):
        return False
    header_text = text.strip()
    return (
        "assistant to=".startswith(header_text) or "to=".startswith(header_text) or _OPENING.fullmatch(text) is not None
    )


def _is_analysis(header: str) -> bool:
    """Of several channels, which models now and then write, the first one counts."""
    channel = _CHANNEL_NAME.search(header)
    return channel is not None and channel[1].startswith("analysis")


def _recipient(header: str) -> str:
    """Whose call a message is; "" where it is none."""
    found = _RECIPIENT.search(header)
    recipient = found[1] if found else ""
    if recipient in _NOBODY or (_is_analysis(header) and recipient.partition(".")[0] in _BUILT_IN):
        return ""
    return recipient


def _opened(prompt: str) -> str:
    """What the end of a prompt has of the header of the message that the answer goes on with, behind its role."""
    _, start, header_text = prompt.rpartition(_START)
    if not start or header_text.endswith(_ENDS):
        return ""
    header, message, _ = header_text.partition(_MESSAGE)
    return header.strip().removeprefix("assistant") + message
