"""[f(a=1), g()]: calls as a Python list, given when the list is whole."""

from __future__ import annotations

import ast
import json
import keyword
import re
import warnings
from collections.abc import Generator, Mapping, Sequence

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.argument_types import literal
from maxserve.plugins.api.common.script import Reading, Script

_MARKERS = {
    "<|python_start|>": "<|python_end|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<function_calls>": "</function_calls>",
}
_FAULTS = (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError)
_PARTS = re.compile(
    r"""\"{3}.*?\"{3}|'{3}.*?'{3}|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    rf"|\b(?P<name>{'|'.join(keyword.kwlist)})(?=\s*=(?!=))",  # from=1
    re.DOTALL,
)
_RENAMED = "reserved_in_python_"


class Pythonic(Script):
    """The list must begin the answer or stand between markers; every name in it must be that of a declared tool.

    The source is parsed, and never run: arguments are literals, given by keyword or in the order of the tool's
    parameters. Between markers calls may also stand without a list, one on each line.
    """

    def __init__(self, context: ToolContext) -> None:
        self._declared = {tool.name: [*(tool.parameters.get("properties") or ())] for tool in context.tools}
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        yield from self._list("")
        while marker := (yield from self.content_until(*_MARKERS)):
            if (yield from self._list(marker)):
                yield from self.skip(_MARKERS[marker])

    def _list(self, before: str) -> Reading:
        end = _MARKERS.get(before)
        before += yield from self.blanks()
        if (yield from self.peek()) == "[":
            source = yield from _bracketed()
        elif end is not None:
            source = yield from self._lines(end)
        else:
            self.content(before)
            return ""
        calls = _calls(source, self._declared)
        for name, arguments in calls:
            self.begin(name)
            self.arguments(arguments)
        if not calls:
            self.content(before + source)
        return "calls" if calls else ""

    def _lines(self, end: str) -> Reading:
        """Calls up to the marker that ends them, or to the end."""
        read = ""
        while char := (yield):
            read += char
            if read.endswith(end):
                self.unread(end)
                return read.removesuffix(end)
        return read


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


def _calls(source: str, declared: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Names and arguments as JSON; none when the source is anything but calls to declared tools."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            body = ast.parse(_as_python(source)).body
        calls = [_call(node, declared) for statement in body for node in _nodes(statement)]
    except _FAULTS:
        return []
    return calls


def _as_python(source: str) -> str:
    """The source without what Python's grammar refuses and models write: line breaks in strings, reserved names."""
    return _PARTS.sub(_repaired, source.strip())


def _repaired(part: re.Match[str]) -> str:
    if part["string"]:
        return part["string"].replace("\n", "\\n").replace("\r", "\\r")
    return _RENAMED + part["name"] if part["name"] else part[0]


def _nodes(statement: ast.stmt) -> Sequence[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError("no expression")
    return statement.value.elts if isinstance(statement.value, ast.List | ast.Tuple) else [statement.value]


def _call(node: ast.expr, declared: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    if not isinstance(node, ast.Call) or name not in declared or len(node.args) > len(declared[name]):
        raise ValueError("no call to a declared tool")
    arguments = {key: literal(value) for key, value in zip(declared[name], node.args, strict=False)}
    for argument in node.keywords:
        if argument.arg is None:
            raise ValueError("** stands for no names")
        arguments[argument.arg.removeprefix(_RENAMED)] = literal(argument.value)
    text = json.dumps(arguments, ensure_ascii=False)
    text.encode()  # a lone surrogate is no text
    return name, text
