"""<think>reasoning</think>answer: where does the thinking end?"""

from __future__ import annotations

from maxserve.core.nouns import Delta
from maxserve.core.reading import ReasoningContext

_OPEN, _CLOSE = "<think>", "</think>"


class Think:
    """Reasoning begins where the prompt or the answer opens it; blanks around it are left out.

    Only the first tag that an answer begins with counts: later ones are content, as the model may speak of them.
    """

    def __init__(self, context: ReasoningContext) -> None:
        opened = context.prompt.rstrip().endswith(_OPEN)
        self._read = self._reasoning if opened else self._start
        self._held = ""
        self._blank = True  # nothing but blanks so far, of the reasoning or of the content after it

    def feed(self, text: str) -> Delta:
        self._held += text
        return self._read()

    def finish(self) -> Delta:
        held, self._held = self._held, ""
        if self._read == self._reasoning:
            return Delta(reasoning=held.rstrip())
        return Delta(content=held if self._read != self._after else "")

    def _start(self) -> Delta:
        said = self._held.lstrip()
        if said.startswith(_OPEN):
            self._held = said.removeprefix(_OPEN)
            self._read = self._reasoning
        elif not _OPEN.startswith(said):
            self._read = self._content
        else:
            return Delta()
        return self._read()

    def _reasoning(self) -> Delta:
        if self._blank:
            while (said := self._held.lstrip()).startswith(_OPEN):  # a model may repeat what its template wrote
                self._held = said.removeprefix(_OPEN)
            self._held = said
            if _OPEN.startswith(said):
                return Delta()
            self._blank = False
        thought, tag, rest = self._held.partition(_CLOSE)
        if not tag:
            return Delta(reasoning=self._certain())
        self._held, self._read = rest, self._after
        after = self._read()
        return Delta(reasoning=thought.rstrip(), content=after.content)

    def _certain(self) -> str:
        """Takes what is reasoning for certain: not what may begin the tag, nor blanks before it."""
        ends = (n for n in range(len(_CLOSE) - 1, 0, -1) if self._held.endswith(_CLOSE[:n]))
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
    closed = context.prompt.rstrip().endswith(_CLOSE)
    return Think(context) if closed else Think(ReasoningContext(sections=context.sections, prompt=_OPEN))
