"""How Granite sets its thoughts apart: tags for thoughts and response in 3.3, sentences in 3.2."""

from __future__ import annotations

from maxserve.interfaces.parsers import Delta, ReasoningContext
from maxserve.plugins.parsers.think import Think

_RESPONSE, _RESPONSE_END = "<response>", "</response>"


def recognises(template: str) -> int:
    """For templates of Granite that ask for thoughts and response."""
    asks = f"{_RESPONSE}{_RESPONSE_END}" in template or "Here is my thought process" in template
    return 100 if asks and "<|start_of_role|>" in template else 0


class GraniteReasoning(Think):
    """The tags around the response, where there are any, are left out."""

    openings = ("<think>", "Here is my thought process:", "Here's my thought process:")
    closings = ("</think>", "Here is my response:", "Here's my response:")

    def __init__(self, context: ReasoningContext) -> None:
        super().__init__(context)
        self._tagged: bool | None = None  # whether the response has tags; None while that is not known

    def finish(self) -> Delta:
        delta = super().finish()
        return Delta(reasoning=delta.reasoning, content=_untagged(delta.content) if self._tagged else delta.content)

    def _content(self) -> Delta:
        if self._tagged is None and not self._opened():
            return Delta()
        if not self._tagged:
            return super()._content()
        visible = self._held[: len(self._held) - _closing(self._held)]
        self._held = self._held[len(visible) :]
        return Delta(content=visible)

    def _opened(self) -> bool:
        """Takes the first tag of a response away; False while it is not certain that there is none."""
        held = self._held.lstrip()
        if not held.startswith(_RESPONSE) and _RESPONSE.startswith(held):
            return False
        self._tagged = held.startswith(_RESPONSE)
        if self._tagged:
            self._held = held.removeprefix(_RESPONSE)
        return True


def _closing(text: str) -> int:
    """How many characters at the end are the last tag and blanks after it, or may begin it."""
    bare = text.rstrip()
    if bare.endswith(_RESPONSE_END):
        return len(text) - len(bare) + len(_RESPONSE_END)
    return next((n for n in range(len(_RESPONSE_END) - 1, 0, -1) if text.endswith(_RESPONSE_END[:n])), 0)


def _untagged(text: str) -> str:
    return "" if text.rstrip() == _RESPONSE_END else text
