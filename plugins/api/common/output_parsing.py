"""Answers parsed into content, reasoning and calls, by the parsers that suit the served model."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence

from maxserve.interfaces.parsers import CallDelta, Delta, ReadsAnswer, ReasoningContext, Thoughts, Tool, ToolContext
from maxserve.interfaces.request import Constraint, ThoughtTokens
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.argument_types import ArgumentType
from maxserve.plugins.api.common.bodies import ChatBody, Message
from maxserve.plugins.api.common.call_arguments import CallArguments
from maxserve.plugins.api.common.conversation import goes_on
from maxserve.plugins.api.common.json_text import encodable
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.parsers import choose_parsers
from maxserve.plugins.api.common.tool_schema import constrained_reader
from maxserve.plugins.api.common.tools import ToolChoice

_ALPHABET = string.ascii_letters + string.digits
_PROMPT_END = 256  # characters of the prompt that tell whether its template has begun the reasoning


def new_call_id() -> str:
    """An id as OpenAI's API gives them to calls."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class OutputParser:
    """Reads one answer: the reasoning is split off first, and calls are looked for in what remains.

    Calls whose parser gives no id get one here; those beyond `most_calls` are left out. The arguments that leave are
    always the JSON text of an object, by the types of the `declared` tools, whatever the parser tells; those of a call
    that the model itself did not complete are completed, and those of an answer that was cut off stay as far as they
    came. All text can be encoded. `markers` are the special tokens that the parsers want to see in the text.
    """

    def __init__(
        self,
        reasoning: ReadsAnswer | None = None,
        tools: ReadsAnswer | None = None,
        *,
        markers: Sequence[str] = (),
        most_calls: int | None = None,
        declared: Sequence[Tool] = (),
        tells_reasoning: bool = True,
    ) -> None:
        self.markers = markers
        self._reasoning = reasoning
        self._tools = tools
        self._most_calls = most_calls
        self._declared = {tool.name: tool.parameters for tool in declared}
        self._tells_reasoning = tells_reasoning
        self._index = -1  # of the call that is open
        self._arguments = CallArguments()
        self.called = False

    def read(self, text: str, *, last: bool, cut: bool = False) -> Delta:
        """What a piece of text adds; with `last`, also all that was held back.

        `cut`: the text ends because it had to, and not because the model was done.
        """
        first = Delta(content=text) if self._reasoning is None else self._reasoning.feed(text)
        if last and self._reasoning is not None:
            first = _joined(first, self._reasoning.finish())
        if not self._tells_reasoning:
            first = Delta(content=first.content, calls=first.calls)
        if self._tools is None:
            return _encodable(first)
        second = self._tools.feed(first.content)
        if last:
            second = _joined(second, self._tools.finish())
        calls = [delta for call in second.calls for delta in self._call_deltas(call)]
        if last and not cut:
            calls += self._closed()
        self.called = self.called or bool(calls)
        return _encodable(Delta(content=second.content, reasoning=first.reasoning, calls=tuple(calls)))

    def _call_deltas(self, call: CallDelta) -> list[CallDelta]:
        """What leaves of a delta, and before it what completes the call before."""
        deltas: list[CallDelta] = []
        if call.index > self._index:
            deltas = self._closed()
            self._index = call.index
            self._arguments = CallArguments(self._kind(call.name))
        if self._most_calls is not None and call.index >= self._most_calls:
            return deltas
        arguments, call_id = self._arguments.feed(call.arguments), call.id
        if call.name:
            call_id = call_id or new_call_id()
        elif not arguments:
            return deltas
        return [*deltas, CallDelta(index=call.index, id=call_id, name=call.name, arguments=arguments)]

    def _closed(self) -> list[CallDelta]:
        missing = self._arguments.close() if self._index >= 0 else ""
        over = self._most_calls is not None and self._index >= self._most_calls
        return [CallDelta(index=self._index, arguments=missing)] if missing and not over else []

    def _kind(self, name: str) -> ArgumentType | None:
        return ArgumentType(self._declared[name]) if name in self._declared else None


def _joined(one: Delta, other: Delta) -> Delta:
    return Delta(
        content=one.content + other.content,
        reasoning=one.reasoning + other.reasoning,
        calls=(*one.calls, *other.calls),
    )


def _encodable(delta: Delta) -> Delta:
    """`delta` without lone surrogates: a model can spell them in JSON, and UTF-8 does not have them."""
    if delta.content.isascii() and delta.reasoning.isascii() and not delta.calls:
        return delta
    calls = (
        CallDelta(index=call.index, id=encodable(call.id), name=encodable(call.name), arguments=call.arguments)
        for call in delta.calls
    )
    return Delta(content=encodable(delta.content), reasoning=encodable(delta.reasoning), calls=tuple(calls))


class OutputParsers:
    """Makes a reader for each answer, of the parsers that suit the served model."""

    def __init__(self, context: ServerContext) -> None:
        self._sections = context.sections
        self._tokenizer = context.tokenizer
        self._ends = frozenset(context.model.eos_token_ids)
        template = None if context.template is None else context.template.source(tools=True)
        self._parsers = choose_parsers(context.config(AnswerOptions), context.components, template or "")

    @property
    def names(self) -> dict[str, str | None]:
        """The parsers by name, None where there is none."""
        return {"tool_parser": self._parsers.tool_parser, "reasoning_parser": self._parsers.reasoning_parser}

    def of(self, body: ChatBody, choice: ToolChoice, prompt: str, constraint: Constraint | None) -> OutputParser | None:
        """The reader of one answer to `prompt`; None when its text is what it is."""
        thinks = body.separate_reasoning is not False and (constraint is None or constraint.thoughts is not None)
        reasoning = self._reasoning(body, choice, prompt) if thinks else None
        tools = self._tools(choice, constrained=constraint is not None)
        if reasoning is None and tools is None:
            return None
        markers = (self._parsers.reasoning_markers if reasoning else ()) + (self._parsers.tool_markers if tools else ())
        return OutputParser(
            reasoning,
            tools,
            markers=markers,
            most_calls=None if choice.parallel else 1,
            declared=choice.tools,
            tells_reasoning=body.tells_reasoning,
        )

    def thoughts(self, body: ChatBody, choice: ToolChoice, prompt: str) -> ThoughtTokens | None:
        """What the model may think before it writes what a constraint holds it to.

        None where it does not think, and where its thoughts could not be distinguished from its answer.
        """
        if self._parsers.thoughts is None or body.separate_reasoning is False:
            return None
        found = self._parsers.thoughts(self._context(body, choice, prompt))
        return None if found is None else self._tokens(found)

    def _tokens(self, thoughts: Thoughts) -> ThoughtTokens | None:
        closing = self._tokenizer.token_id(thoughts.closing)
        if closing is None or closing in self._ends:
            return None
        forbidden = (self._tokenizer.token_id(text) for text in thoughts.forbidden)
        return ThoughtTokens(
            closing=closing,
            opening=tuple(self._tokenizer.encode(thoughts.opening, add_special_tokens=False)),
            lead=tuple(self._tokenizer.encode(thoughts.lead, add_special_tokens=False)),
            forbidden=tuple(token for token in forbidden if token is not None),
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
        begun = _text_of(body.messages[-1]) if goes_on(body) else ""
        last_text = _text_of(messages[-1]) if messages else ""
        written = prompt[: prompt.rfind(begun) if begun else len(prompt)].rstrip()
        own = next((mark for mark in self._parsers.reasoning_markers if written.endswith(mark)), "")
        if any(mark in last_text for mark in self._parsers.reasoning_markers):
            at = prompt.rfind(last_text, 0, len(written) - len(own))
            prompt = prompt[at + len(last_text) :] if at >= 0 else prompt
        return prompt[-_PROMPT_END - len(begun) :]

    def _tools(self, choice: ToolChoice, *, constrained: bool) -> ReadsAnswer | None:
        if choice.schema is not None:
            return constrained_reader(choice.mode, choice.tools)()
        if choice.mode != "auto" or constrained or self._parsers.tools is None:
            return None
        return self._parsers.tools(ToolContext(sections=self._sections, tools=choice.tools))


def _text_of(message: Message) -> str:
    """The text that a message ends with, as a template renders it at least."""
    content = message.content
    if isinstance(content, list):
        content = next((part.text for part in reversed(content) if part.text), None)
    return (content or "").strip()
