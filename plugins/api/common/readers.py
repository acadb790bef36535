"""What reads the answers to a conversation."""

from __future__ import annotations

from maxserve.interfaces.parsers import ReadsAnswer, ReasoningContext, Thoughts, ToolContext
from maxserve.interfaces.request import Constraint, ThoughtTokens
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.bodies import ChatBody, Message
from maxserve.plugins.api.common.conversation import goes_on
from maxserve.plugins.api.common.parsers import choose_parsers
from maxserve.plugins.api.common.reading import AnswerReader
from maxserve.plugins.api.common.tool_schema import constrained_reader
from maxserve.plugins.api.common.tools import ToolChoice

_PROMPT_END = 256  # characters of the prompt that tell whether its template has begun the reasoning


class Readers:
    """Makes a reader for each answer, of the parsers that suit the served model."""

    def __init__(self, context: ServerContext) -> None:
        self._sections = context.sections
        self._tokenizer = context.tokenizer
        self._ends = frozenset(context.model.eos_token_ids)
        template = context.template.source(tools=True) or "" if context.template.present else ""
        self._parsers = choose_parsers(context.settings, context.host, template)

    @property
    def names(self) -> dict[str, str | None]:
        """The parsers by name, None where there is none."""
        return {"tool_parser": self._parsers.tool_parser, "reasoning_parser": self._parsers.reasoning_parser}

    def of(self, body: ChatBody, choice: ToolChoice, prompt: str, constraint: Constraint | None) -> AnswerReader | None:
        """The reader of one answer to `prompt`; None when its text is what it is."""
        thinks = body.separate_reasoning is not False and (constraint is None or constraint.thoughts is not None)
        reasoning = self._reasoning(body, choice, prompt) if thinks else None
        tools = self._tools(choice, constrained=constraint is not None)
        if reasoning is None and tools is None:
            return None
        markers = (self._parsers.reasoning_markers if reasoning else ()) + (self._parsers.tool_markers if tools else ())
        return AnswerReader(
            reasoning,
            tools,
            markers=markers,
            most_calls=None if choice.parallel else 1,
            declared=choice.tools,
            tells_reasoning=body.tells_reasoning,
        )

    def thoughts(self, body: ChatBody, choice: ToolChoice, prompt: str) -> ThoughtTokens | None:
        """What the model may think before it writes what a constraint holds it to.

        None where it does not think, and where nobody would tell its thoughts from its answer.
        """
        if self._parsers.thoughts is None or body.separate_reasoning is False:
            return None
        found = self._parsers.thoughts(self._context(body, choice, prompt))
        return None if found is None else self._tokens(found)

    def _tokens(self, thoughts: Thoughts) -> ThoughtTokens | None:
        closing = self._tokenizer.token_id(thoughts.closing)
        if closing is None or closing in self._ends:
            return None
        barred = (self._tokenizer.token_id(text) for text in thoughts.barred)
        return ThoughtTokens(
            closing=closing,
            opening=tuple(self._tokenizer.encode(thoughts.opening, add_special_tokens=False)),
            lead=tuple(self._tokenizer.encode(thoughts.lead, add_special_tokens=False)),
            barred=tuple(token for token in barred if token is not None),
            needed=thoughts.needed,
        )

    def _context(self, body: ChatBody, choice: ToolChoice, prompt: str) -> ReasoningContext:
        tools = choice.tools if choice.mode == "auto" and self._parsers.tools is not None else ()
        return ReasoningContext(sections=self._sections, prompt=self._end(body, prompt), tools=tools)

    def _reasoning(self, body: ChatBody, choice: ToolChoice, prompt: str) -> ReadsAnswer | None:
        build = self._parsers.reasoning
        return build and build(self._context(body, choice, prompt))

    def _end(self, body: ChatBody, prompt: str) -> str:
        """The end of a prompt, with all that the client began of the answer, and no tags that others speak of."""
        messages = body.messages[:-1] if goes_on(body) else body.messages
        begun = _said(body.messages[-1]) if goes_on(body) else ""
        said = _said(messages[-1]) if messages else ""
        written = prompt[: prompt.rfind(begun) if begun else len(prompt)].rstrip()
        own = next((mark for mark in self._parsers.reasoning_markers if written.endswith(mark)), "")
        if any(mark in said for mark in self._parsers.reasoning_markers):
            at = prompt.rfind(said, 0, len(written) - len(own))
            prompt = prompt[at + len(said) :] if at >= 0 else prompt
        return prompt[-_PROMPT_END - len(begun) :]

    def _tools(self, choice: ToolChoice, *, constrained: bool) -> ReadsAnswer | None:
        if choice.schema is not None:
            return constrained_reader(choice.mode, choice.tools)()
        if choice.mode != "auto" or constrained or self._parsers.tools is None:
            return None
        return self._parsers.tools(ToolContext(sections=self._sections, tools=choice.tools))


def _said(message: Message) -> str:
    """The text that a message ends with, as a template renders it at least."""
    content = message.content
    if isinstance(content, list):
        content = next((part.text for part in reversed(content) if part.text), None)
    return (content or "").strip()
