"""<think>reasoning</think>answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from maxserve.interfaces.parsers import Delta, ReasoningContext, Thoughts

# What ends a message, and begins the next, in chat templates.
_MESSAGE_MARK = re.compile(
    r"<[|｜][^<>|｜]{1,40}[|｜]>|</?s>|\[/?INST\]|<(start|end)_of_turn>|<\|?turn\|?>|<\|?im_(start|end)\|?>"
)


class Think:
    """Reasoning begins where the prompt or the answer opens it; blanks around it are left out.

    A prompt may hold the beginning of the reasoning: its template has written the tag, or the client has begun the
    answer, which goes on there.

    Only the first tag that an answer begins with counts: later ones are content, as the model may speak of them.
    Families with other tags are subclasses. `ends` are texts that end the reasoning as well, and are given as content:
    a model that calls a tool may forget to end its thoughts. With `calls` it may also try a call out: on a line of its
    own it is one only if the reasoning does not go on, up to its end, behind it, and until then nothing more is given.
    """

    openings: ClassVar[tuple[str, ...]] = ("<think>",)
    closings: ClassVar[tuple[str, ...]] = ("</think>",)
    ends: ClassVar[tuple[str, ...]] = ()
    calls: ClassVar[tuple[str, ...]] = ("<tool_call>",)

    def __init__(self, context: ReasoningContext) -> None:
        begun = self._begun(context.prompt)
        self._read = self._start if begun is None else self._reasoning
        self._held = ""
        self._calls = tuple(f"\n{call}" for call in self.calls) if context.tools else ()
        self._at_start = self.calls if context.tools and not begun else ()  # calls before anything was given
        self._blank = not begun  # nothing but blanks so far, of the reasoning or of the content after it

    @classmethod
    def _begun(cls, prompt: str) -> str | None:
        """The reasoning in which the prompt ends, "" where nothing is known of it yet; None where it is not open."""
        after = max((prompt.rfind(tag) + len(tag) for tag in cls.openings if tag in prompt), default=-1)
        thought = prompt[max(after, 0) :]
        if after < 0 or any(tag in thought for tag in cls.closings) or _MESSAGE_MARK.search(thought):
            return None
        return thought.strip()

    @classmethod
    def closed(cls, prompt: str) -> bool:
        """Whether the prompt ends behind reasoning, in the message that the answer goes on with."""
        after = max((prompt.rfind(tag) + len(tag) for tag in cls.closings if tag in prompt), default=-1)
        return after >= 0 and cls._begun(prompt) is None and _MESSAGE_MARK.search(prompt[after:]) is None

    @classmethod
    def thoughts(cls, context: ReasoningContext) -> Thoughts | None:
        """Those that the prompt has begun; where it has neither begun nor ended any, the model may begin some."""
        if cls.closed(context.prompt):
            return None
        opening = cls.openings[0] if cls._begun(context.prompt) is None else ""
        return Thoughts(opening=opening, closing=cls.closings[0], forbidden=cls.ends)

    def feed(self, text: str) -> Delta:
        self._held += text
        return self._read()

    def finish(self) -> Delta:
        held, self._held = self._held, ""
        if self._read == self._reasoning:
            if (call := self._call_in(held)) >= 0:
                return Delta(reasoning=held[:call].rstrip(), content=held[call:].lstrip())
            return Delta(reasoning=held.rstrip())
        return Delta(content=held if self._read != self._after else "")

    def _start(self) -> Delta:
        stripped = self._held.lstrip()
        if (opening := _first(self.openings, stripped)) is not None:
            self._held = stripped.removeprefix(opening)
            self._read = self._reasoning
        elif not _may_begin(self.openings, stripped):
            self._read = self._content
        else:
            return Delta()
        return self._read()

    def _reasoning(self) -> Delta:
        if self._blank:
            while (opening := _first(self.openings, stripped := self._held.lstrip())) is not None:
                self._held = stripped.removeprefix(opening)  # a model may repeat what its template wrote
            self._held = stripped
            if _may_begin(self.openings, stripped):
                return Delta()
            self._blank = False
        index, tag = _earliest((*self.closings, *self.ends), self._held)
        if not tag:
            return Delta() if self._call_in(self._held) >= 0 else Delta(reasoning=self._certain())
        thought, self._held = self._held[:index], self._held[index:]
        if tag in self.ends:
            self._read = self._content
        else:
            self._held, self._read = self._held.removeprefix(tag), self._after
        after = self._read()
        return Delta(reasoning=thought.rstrip(), content=after.content)

    def _call_in(self, text: str) -> int:
        """Where a call begins that may be one; -1 where none does."""
        return 0 if text.startswith(self._at_start) else _earliest(self._calls, text)[0]

    def _certain(self) -> str:
        """Takes what is reasoning for certain: not what may begin a tag, nor blanks before it."""
        if _may_begin(self._at_start, self._held):
            return ""
        self._at_start = ()
        tags = (*self.closings, *self.ends, *self._calls)
        longest = max(map(len, tags))
        ends = (n for n in range(longest - 1, 0, -1) if n <= len(self._held) and _may_begin(tags, self._held[-n:]))
        certain = self._held[: len(self._held) - next(ends, 0)].rstrip()
        self._held = self._held[len(certain) :]
        return certain

    def _after(self) -> Delta:
        self._held = self._held.lstrip()
        if self._held:
            self._read = self._content
        return self._content()

    def _content(self) -> Delta:
        content, self._held = self._held, ""
        return Delta(content=content)


def from_start(context: ReasoningContext) -> Think:
    """For models that leave out the first tag: what they say is reasoning until the tag that ends it.

    Where the template has written both tags, there is none.
    """
    begun = Think.closed(context.prompt) or Think._begun(context.prompt) is not None
    return Think(context) if begun else Think(replace(context, prompt=Think.openings[0]))


def thoughts_from_start(context: ReasoningContext) -> Thoughts | None:
    """As `from_start` reads them."""
    return None if Think.closed(context.prompt) else Thoughts(closing=Think.closings[0])


def _first(tags: Iterable[str], text: str) -> str | None:
    """The tag that a text begins with."""
    return next((tag for tag in tags if text.startswith(tag)), None)


def _may_begin(tags: Iterable[str], text: str) -> bool:
    """Whether more text could make one of the tags of it."""
    return any(tag.startswith(text) for tag in tags)


def _earliest(tags: Iterable[str], text: str) -> tuple[int, str]:
    """Where the first of the tags begins in a text, and which; (-1, "") where none does."""
    found = [(index, tag) for tag in tags if (index := text.find(tag)) >= 0]
    return min(found, default=(-1, ""))
