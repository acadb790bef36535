"""Parsers of tool calls and of reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    from maxserve.core.interfaces.component import Ref


__all__ = [
    "CallDelta",
    "Delta",
    "ReadsAnswer",
    "ReasoningContext",
    "ReasoningParser",
    "Thoughts",
    "Tool",
    "ToolContext",
    "ToolParser",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolParser(Component):
    """A way in which models write tool calls. `build(ToolContext)` gives a ReadsAnswer, a new one for each answer.

    `recognises(template)` tells from the Jinja text of a chat template how surely its model writes so: 0 is no, and
    the highest number serves; it is called without torch. `markers` are texts the reader looks for: where they are
    special tokens of the model, they are kept in the text.
    """

    kind: ClassVar[str] = "tool_parser"

    recognises: Ref | None = None
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParser(Component):
    """A form in which models mark their reasoning. `build(ReasoningContext)` gives a ReadsAnswer for one answer.

    `recognises` and `markers` as for tool parsers. `thoughts(ReasoningContext)` gives the Thoughts that an answer has
    before a text that is held to a grammar, None where it has none; without it no such answer has any.
    """

    kind: ClassVar[str] = "reasoning_parser"

    recognises: Ref | None = None
    markers: tuple[str, ...] = ()
    thoughts: Ref | None = None


class CallDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a piece of an answer adds to its tool call number `index`.

    `id` and `name` come once, with the first delta of a call; `arguments` are fragments that join to the JSON text of
    an object. What a parser tells may be less than that, as the model wrote it; what leaves the server is not.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a piece of text adds to an answer, once parsers for reasoning and tools have read it."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


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
    """How an answer reasons before the text that it is constrained to: as ThoughtTokens, in text.

    `closing` must be a single token of the model; so must those of `forbidden`, or they are not forbidden.
    """

    closing: str
    opening: str = ""
    lead: str = ""
    forbidden: tuple[str, ...] = ()
    needed: bool = False


class ReadsAnswer(Protocol):
    """Reads one answer while it is written. How the text is cut into pieces makes no difference.

    Nothing is lost or given twice: what proves to be neither reasoning nor a call is content, as it was written.
    """

    def feed(self, text: str) -> Delta:
        """What is certain after this piece of text and was not given before."""
        ...

    def finish(self) -> Delta:
        """The rest, when no more text will come."""
        ...
