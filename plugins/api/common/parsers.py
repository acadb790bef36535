"""The parsers that read the answers of the served model: those the operator names, or the chat template shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from maxserve.interfaces.component import Components, Declaration, Declarations
from maxserve.interfaces.errors import PluginError
from maxserve.interfaces.parsers import (
    ReadsAnswer,
    ReasoningContext,
    ReasoningParser,
    Thoughts,
    ToolContext,
    ToolParser,
)
from maxserve.plugins.api.common.options import AnswerOptions

log = logging.getLogger("maxserve.server")

AUTO, NONE = "auto", "none"
P = TypeVar("P", ToolParser, ReasoningParser)


class Parsers(msgspec.Struct, frozen=True, kw_only=True):
    """What reads the answers of one server: builds of readers, one for each answer; None where nothing does."""

    tools: Callable[[ToolContext], ReadsAnswer] | None = None
    reasoning: Callable[[ReasoningContext], ReadsAnswer] | None = None
    thoughts: Callable[[ReasoningContext], Thoughts | None] | None = None
    tool_markers: tuple[str, ...] = ()
    reasoning_markers: tuple[str, ...] = ()
    tool_parser: str | None = None
    reasoning_parser: str | None = None


def choose_parsers(options: AnswerOptions, offered: Components, template: str) -> Parsers:
    """The parsers for a model whose chat template is `template`, "" where there is none.

    PluginError for a name that no plugin declares, with what is near.
    """
    tools = _choose(offered, offered.of(ToolParser), options.tool_parser, template, "--tool-parser")
    reasoning = _choose(offered, offered.of(ReasoningParser), options.reasoning_parser, template, "--reasoning-parser")
    chosen = (_described(tools, options.tool_parser), _described(reasoning, options.reasoning_parser))
    log.info("parsers of answers: tool calls: %s; reasoning: %s", *chosen)
    return Parsers(
        tools=offered.load(tools, tools.component.build) if tools else None,
        reasoning=offered.load(reasoning, reasoning.component.build) if reasoning else None,
        thoughts=offered.load(reasoning, reasoning.component.thoughts)
        if reasoning and reasoning.component.thoughts
        else None,
        tool_markers=tools.component.markers if tools else (),
        reasoning_markers=reasoning.component.markers if reasoning else (),
        tool_parser=tools.name if tools else None,
        reasoning_parser=reasoning.name if reasoning else None,
    )


def _choose(
    offered: Components, registry: Declarations[P], name: str, template: str, flag: str
) -> Declaration[P] | None:
    if name == NONE:
        return None
    if name == AUTO:
        return _recognised(offered, registry, template)
    try:
        return registry.get(name)
    except PluginError as error:
        raise PluginError(f"{flag} {name}: {error}; or {AUTO}, {NONE}") from None


def _recognised(offered: Components, registry: Iterable[Declaration[P]], template: str) -> Declaration[P] | None:
    """The entry that is surest of the template; of several, the first by name."""
    best: tuple[int, Declaration[P] | None] = (0, None)
    for entry in registry:
        if entry.component.recognises is not None:
            score = _score(entry, offered.load(entry, entry.component.recognises), template)
            if score > best[0]:
                best = (score, entry)
    return best[1]


def _score(entry: Declaration[P], recognises: Callable[[str], Any], template: str) -> int:
    try:
        return int(recognises(template))
    except Exception as error:
        raise PluginError(f"{entry.title}: recognises: {type(error).__name__}: {error}") from error


def _described(entry: Declaration[P] | None, asked: str) -> str:
    if entry is None:
        return NONE if asked == NONE else "none, as the chat template shows no form that is known"
    return f"{entry.name} (found in the chat template)" if asked == AUTO else entry.name
