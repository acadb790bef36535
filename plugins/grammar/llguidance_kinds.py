"""Grammars of every kind of constraint, as llguidance takes them."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.lowering import lowered
from maxserve.plugins.grammar.rules import check_rules
from maxserve.plugins.grammar.schema import read_schema
from maxserve.plugins.grammar.wide_integers import wide_grammar

LARGEST = 1024**2  # characters of a grammar
# At most a blank after a comma or colon: a model cannot lose itself in white space.
WORDING = {"whitespace_flexible": False, "item_separator": ",[ ]?", "key_separator": ":[ ]?"}


def grammar_of(kind: str, text: str) -> tuple[str, tuple[str, ...]]:
    """The grammar of a constraint, and warnings about it; GrammarUnsupported for what is not taken."""
    found = read_schema(text) if kind == "json_schema" else None
    grammar = _grammar(kind, text) if found is None else _schema_grammar(found.schema)
    if len(grammar) > LARGEST:
        raise GrammarUnsupported(f"as a grammar it has {len(grammar)} characters; at most {LARGEST} are taken")
    return grammar, () if found is None else found.warnings


def _grammar(kind: str, text: str) -> str:
    if kind == "json_object":
        return _schema_grammar({"type": "object"})
    if kind == "regex":
        return LLMatcher.grammar_from_regex(regex.read(text).body)
    if kind == "choice":
        return LLMatcher.grammar_from_regex("|".join(map(regex.literal, json.loads(text))))
    check_rules(text)
    try:
        return LLMatcher.grammar_from_lark(any_to_lark(text))
    except Exception as error:  # a converter that raises what it happens to stumble over
        raise GrammarUnsupported(f"the grammar cannot be read: {error}", invalid=True) from error


def _schema_grammar(schema: dict[str, Any]) -> str:
    wide = wide_grammar(schema, WORDING)
    if wide is not None:
        return LLMatcher.grammar_from_lark(wide)
    schema = lowered(schema)
    return LLMatcher.grammar_from_json_schema(schema, overrides=WORDING)  # type: ignore[arg-type]
