"""Who reads the answers to a conversation?"""

from __future__ import annotations

from maxserve.core.answers.parsers import choose_parsers
from maxserve.core.answers.reading import AnswerReader
from maxserve.core.answers.tool_schema import constrained_reader
from maxserve.core.answers.tools import ToolChoice
from maxserve.core.interfaces import ServerContext
from maxserve.core.reading import ReadsAnswer, ReasoningContext, ToolContext

_PROMPT_END = 256  # characters of the prompt that tell whether its template has begun the reasoning


class Readers:
    """Makes a reader for each answer, of the parsers that suit the served model."""

    def __init__(self, context: ServerContext) -> None:
        self._sections = context.sections
        template = context.template.source(tools=True) or "" if context.template.present else ""
        self._parsers = choose_parsers(context.settings, context.host, template)

    @property
    def names(self) -> dict[str, str | None]:
        """The parsers by name, None where there is none."""
        return {"tool_parser": self._parsers.tool_parser, "reasoning_parser": self._parsers.reasoning_parser}

    def of(self, choice: ToolChoice, prompt: str, *, constrained: bool) -> AnswerReader | None:
        """The reader of one answer to `prompt`; None when its text is what it is.

        An answer that is held to a grammar has no room for thoughts.
        """
        reasoning = None if constrained else self._reasoning(prompt)
        tools = self._tools(choice, constrained=constrained)
        if reasoning is None and tools is None:
            return None
        markers = (self._parsers.reasoning_markers if reasoning else ()) + (self._parsers.tool_markers if tools else ())
        most = None if choice.parallel else 1
        return AnswerReader(reasoning, tools, markers=markers, most_calls=most, declared=choice.tools)

    def _reasoning(self, prompt: str) -> ReadsAnswer | None:
        build = self._parsers.reasoning
        return build and build(ReasoningContext(sections=self._sections, prompt=prompt[-_PROMPT_END:]))

    def _tools(self, choice: ToolChoice, *, constrained: bool) -> ReadsAnswer | None:
        if choice.schema is not None:
            return constrained_reader(choice.mode, choice.tools)()
        if choice.mode != "auto" or constrained or self._parsers.tools is None:
            return None
        return self._parsers.tools(ToolContext(sections=self._sections, tools=choice.tools))
