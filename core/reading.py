"""What parsers of answers are given, and what they build: readers of tool calls and of reasoning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from maxserve.core.interfaces import Context
from maxserve.core.nouns import Delta, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext(Context):
    """The tools of the request whose answer is read."""

    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningContext(Context):
    """`prompt` is how the text of the prompt ends: a template or a client may have begun the reasoning.

    `tools`: those that the answer may call; a model may go over to a call without having ended its reasoning.
    """

    prompt: str = ""
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thoughts:
    """How an answer thinks before the text that it is held to: as ThoughtTokens, in text.

    `closing` must be a single token of the model; so must those of `barred`, or they are not barred.
    """

    closing: str
    opening: str = ""
    lead: str = ""
    barred: tuple[str, ...] = ()
    needed: bool = False


class ReadsAnswer(Protocol):
    """Reads one answer while it is written. How the text is cut into pieces makes no difference.

    Nothing is lost or told twice: what turns out to be neither reasoning nor a call is content, as it was written.
    """

    def feed(self, text: str) -> Delta:
        """What is certain after this piece of text and was not told before."""
        ...

    def finish(self) -> Delta:
        """The rest, when no more text will come."""
        ...
