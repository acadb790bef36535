"""The graph of a grammar's rules, whose depth is bounded before a parser follows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from maxserve.interfaces.errors import GrammarUnsupported

MOST_RULES = 5_000
DEEPEST = 500  # rules that lead from one to the next

# In Lark "name: …" and "NAME.2: …", in GBNF "name ::= …", at the beginning of a line.
_RULE = re.compile(
    r"^[ \t]*([?!]*[A-Za-z_][\w-]*)(?:\.-?\d+)?[ \t]*(?:\{[^}\n]*\}|\[[^\]\n]*\])?[ \t]*(?:::=|:)", re.MULTILINE
)
_SKIPPED = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/')
_NAME = re.compile(r"[A-Za-z_][\w-]*")


def check_rules(text: str) -> None:
    """GrammarUnsupported for more rules than MOST_RULES, or when following them goes deeper than DEEPEST."""
    found = list(_RULE.finditer(text))
    if len(found) > MOST_RULES:
        raise GrammarUnsupported(f"the grammar has {len(found)} rules; at most {MOST_RULES} are taken", invalid=True)
    ends = [match.start() for match in found] + [len(text)]
    bodies = {match[1].lstrip("?!"): text[match.end() : end] for match, end in zip(found, ends[1:], strict=True)}
    rules = {name: _names(body, bodies) for name, body in bodies.items()}
    depth = _depth(rules)
    if depth > DEEPEST:
        message = f"its rules lead from one to the next {depth} times; at most {DEEPEST} are taken"
        raise GrammarUnsupported(message, invalid=True)


def _names(body: str, rules: Mapping[str, str]) -> Sequence[str]:
    """The rules that a rule names, in the order of its text."""
    return [name for name in dict.fromkeys(_NAME.findall(_SKIPPED.sub(" ", body))) if name in rules]


def _depth(rules: Mapping[str, Sequence[str]]) -> int:
    """How deep a parser goes that follows each rule when it first meets it."""
    deepest, met = 0, set[str]()
    for start in ("start", "root", *rules):
        if start not in rules or start in met:
            continue
        met.add(start)
        way: list[Iterator[str]] = [iter(rules[start])]
        while way:
            deepest = max(deepest, len(way))
            following = next((name for name in way[-1] if name not in met), None)
            if following is None:
                way.pop()
            else:
                met.add(following)
                way.append(iter(rules[following]))
    return deepest
