"""[f(a=1), g()]: calls as a Python list, told when the list is whole."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Generator
from typing import Any

from maxserve.core.answers.argument_types import literal
from maxserve.core.answers.script import Reading, Script
from maxserve.core.reading import ToolContext

_START, _END = "<|python_start|>", "<|python_end|>"
_FAULTS = (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError)


class Pythonic(Script):
    """The list must begin the answer or stand between the markers; every name in it must be that of a declared tool.

    The source is parsed, and never run: arguments are literals given by keyword.
    """

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        yield from self._list("")
        while (yield from self.content_until(_START)):
            if (yield from self._list(_START)):
                yield from self.skip(_END)

    def _list(self, before: str) -> Reading:
        before += yield from self.blanks()
        if (yield from self.peek()) != "[":
            self.content(before)
            return ""
        source = yield from _bracketed()
        calls = _calls(source, self._declared)
        for name, arguments in calls:
            self.begin(name)
            self.arguments(arguments)
        if not calls:
            self.content(before + source)
        return "calls" if calls else ""


def _bracketed() -> Reading:
    """The text up to the bracket that closes the first one, or to the end."""
    read, depth, quote, escaped = "", 0, "", False
    while char := (yield):
        read += char
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[({") - (char in "])}")
            if depth == 0:
                break
    return read


def _calls(source: str, declared: frozenset[str]) -> list[tuple[str, str]]:
    """Names and arguments as JSON; none when the source is anything but a list of calls to declared tools."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            tree = ast.parse(source, mode="eval").body
        items = tree.elts if isinstance(tree, ast.List) else []
        calls = [_call(item) for item in items]
    except _FAULTS:
        return []
    return calls if all(name in declared for name, _ in calls) else []


def _call(node: ast.expr) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call by keywords")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** stands for no names")
        arguments[keyword.arg] = literal(keyword.value)
    text = json.dumps(arguments, ensure_ascii=False)
    text.encode()  # a lone surrogate is no text
    return ast.unparse(node.func), text
