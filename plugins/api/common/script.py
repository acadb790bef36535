"""The base of parsers of answers: one reading from the first character to the last, whatever the pieces are."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Generator
from typing import TypeAlias

from maxserve.interfaces.errors import PluginError
from maxserve.interfaces.parsers import CallDelta, Delta
from maxserve.plugins.api.common.call_text import CallText

_READS_PER_CHARACTER = 100  # that a reading may take again, having put text back
_SPARE_READS = 1000

Reading: TypeAlias = Generator[None, str, str]
"""Gets a character at each `yield`, and "" where the text ends; what it returns is up to each."""


class Script:
    """A ReadsAnswer whose `read` takes one character at a time, so that pieces cannot make a difference.

    Blank text before a call, and between the last call and the end, belongs to the calls and is no content.
    """

    def __init__(self) -> None:
        self._pending: deque[str] = deque()
        self._content: list[str] = []
        self._blank = ""  # held back: a call may follow
        self._deltas: list[CallDelta] = []
        self._count = 0
        self._after_call = False
        self._reads_left = _SPARE_READS
        self._reading = self.read()
        next(self._reading)

    def read(self) -> Generator[None, str, None]:
        """The reading itself; it ends when the text does, and not before."""
        raise NotImplementedError

    def feed(self, text: str) -> Delta:
        self._pending.extend(text)
        self._reads_left += _READS_PER_CHARACTER * len(text)
        self._drain()
        return self._taken()

    def finish(self) -> Delta:
        while self._send(""):  # to every step of the reading that waits for more
            self._drain()
        if not self._after_call:
            self._content.append(self._blank)
        return self._taken()

    def _drain(self) -> None:
        while self._pending and self._send(self._pending.popleft()):
            pass

    def _send(self, char: str) -> bool:
        """Gives the reading a character; False when it is over. PluginError for one that reads without an end."""
        self._reads_left -= 1
        if self._reads_left < 0:
            name = f"{type(self).__module__}.{type(self).__qualname__}"
            raise PluginError(f'{name}.read goes on reading for ever; it must return once it is sent "", the end')
        try:
            self._reading.send(char)
        except StopIteration:
            return False
        return True

    def _taken(self) -> Delta:
        delta = Delta(content="".join(self._content), calls=tuple(_merged(self._deltas)))
        self._content, self._deltas = [], []
        return delta

    # --- what a reading finds -----------------------------------------------------------------------------------

    def content(self, text: str) -> None:
        shown = text.rstrip()
        if shown:
            self._content.append(self._blank + shown)
            self._blank, self._after_call = "", False
        self._blank += text[len(shown) :]

    def begin(self, name: str, call_id: str = "") -> None:
        """A new call; the arguments that follow belong to it."""
        self._blank, self._after_call = "", True
        self._deltas.append(CallDelta(index=self._count, id=call_id, name=name))
        self._count += 1

    def arguments(self, text: str) -> None:
        if text:
            self._deltas.append(CallDelta(index=self._count - 1, arguments=text))

    def new_id(self) -> str:
        """The id of a call that gives none itself; "" leaves it to the server."""
        return ""

    # --- what readings are made of ------------------------------------------------------------------------------

    def unread(self, text: str) -> None:
        """Puts text back, to be read next."""
        self._pending.extendleft(reversed(text))

    def peek(self) -> Reading:
        char = yield
        self.unread(char)
        return char

    def blanks(self) -> Reading:
        """The blank text that comes next; it is left out."""
        read = ""
        while (char := (yield)).isspace():
            read += char
        self.unread(char)
        return read

    def content_until(self, *markers: str) -> Reading:
        """Tells content up to one of `markers`, which it gives; "" at the end."""
        held = ""
        while char := (yield):
            held += char
            while held and not any(marker.startswith(held) for marker in markers):
                self.content(held[0])
                held = held[1:]
            if held in markers:
                return held
        self.content(held)
        return ""

    def text_until(self, *markers: str, longest: int = 256) -> Generator[None, str, tuple[str, str]]:
        """A text and the marker behind it, both left out; "" for the marker where it does not come soon."""
        read = ""
        while len(read) < longest and (char := (yield)):
            read += char
            for marker in markers:
                if read.endswith(marker):
                    return read.removesuffix(marker), marker
        return read, ""

    def skip_any(self, *markers: str) -> Reading:
        """As `skip`, of the first of several markers that comes next."""
        for marker in markers:
            if (yield from self.skip(marker)):
                return marker
        return ""

    def skip(self, marker: str) -> Reading:
        """Passes over blanks and a marker that come next, which it gives; anything else stays to be read.

        A marker in which the text ends is passed over as well, and not given.
        """
        held, seen = "", ""
        while char := (yield):
            held += char
            if not seen and char.isspace():
                continue
            seen += char
            if seen == marker:
                return marker
            if not marker.startswith(seen):
                break
        if char or not seen:
            self.unread(held)
        return ""

    def json_call(self, before: str, declared: Container[str] | None = None) -> Reading:
        """A call as CallText describes it; "call" when there was one, else all that was read became content.

        `before` is what was read already and belongs to it. A call that breaks off stays as far as it came, and
        what cannot belong to it is read next.
        """
        return (yield from self._json_call_text(CallText(declared), before))

    def json_object(self, before: str, name: str, call_id: str = "") -> Reading:
        """The arguments of a call to `name`, an object that stands for itself or its JSON text; as `json_call` else."""
        return (yield from self._json_call_text(CallText.of(name, call_id), before))

    def _json_call_text(self, call: CallText, raw: str) -> Reading:
        begun = False
        while char := (yield):
            if not call.step(char):
                if not begun:
                    self.content(raw + char)
                    return ""
                self.unread(char)
                return "call"
            raw += char
            if call.ready:
                if not begun:
                    self.begin(call.name, call.id or self.new_id())
                    begun = True
                self.arguments(call.take())
            if call.done:
                return "call"
        self.content("" if begun else raw)
        return "call" if begun else ""

    def json_calls(self, before: str, declared: Container[str] | None = None) -> Reading:
        """The rest of an array of calls, after its bracket, which `before` ends with."""
        found = ""
        while True:
            blanks = yield from self.blanks()
            if (yield from self.peek()) != "{":
                self.content("" if found else before + blanks)
                return found
            if not (yield from self.json_call(before + blanks if not found else "", declared)):
                return found
            found, before = "call", ""
            if not (yield from self.skip(",")):
                yield from self.skip("]")
                return found

    def calls(self, before: str, declared: Container[str] | None = None) -> Reading:
        """An array of calls, or calls one behind the other; "call" where there was one at least.

        A call that is not one ends them and becomes content, with `before` where it is the first.
        """
        found = ""
        while True:
            blanks = yield from self.blanks()
            opener = yield from self.peek()
            if opener == "[" and not found:
                yield
                return (yield from self.json_calls(f"{before}{blanks}[", declared))
            if opener != "{":
                self.content(blanks if found else before + blanks)
                return found
            if not (yield from self.json_call("" if found else before + blanks, declared)):
                return found
            found = "call"
            yield from self._between_calls()

    def _between_calls(self) -> Reading:
        """What models put between calls, or too much behind one: all of it is left out."""
        while (yield from self.skip("}")) or (yield from self.skip(",")) or (yield from self.skip(";")):
            pass
        return ""

    def bare_calls(self, declared: Container[str]) -> Reading:
        """Calls to `declared` tools that begin the answer, without what marks calls."""
        blanks = yield from self.blanks()
        opening = yield from self._bare_opening()
        self.unread(opening)
        if opening.endswith("{"):
            return (yield from self.calls(blanks, declared))
        self.content(blanks)
        return ""

    def _bare_opening(self) -> Reading:
        """What comes next, as far as it may begin calls: a brace that may stand in an array."""
        read = yield
        while read.strip() == "[" and (char := (yield)):
            read += char
        return read


def _merged(calls: list[CallDelta]) -> list[CallDelta]:
    """One delta for each call."""
    merged: list[CallDelta] = []
    for call in calls:
        if merged and merged[-1].index == call.index:
            first = merged.pop()
            call = CallDelta(
                index=first.index, id=first.id, name=first.name, arguments=first.arguments + call.arguments
            )
        merged.append(call)
    return merged
