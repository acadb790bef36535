"""call:name{key:value} between tokens, with strings between tokens as well, and Python in a tool_code fence: Gemma."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Generator
from typing import Any, ClassVar

from maxserve.plugins.api.common.argument_types import literal
from maxserve.plugins.api.common.script import Reading
from maxserve.plugins.parsers.typed_calls import TypedCalls, json_text

_FENCE, _FENCE_END = "```tool_code", "```"
_DEEPEST = 32  # of values within each other
_FAULTS = (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError)

Value = Generator[None, str, Any]
"""A reading that gives a value of JSON; _CUT where the text ends within it."""

_CUT = object()


class Gemma4(TypedCalls):
    """A member is given when it is whole. A value without the tokens of strings is what JSON takes it for.

    What the schema wants goes before: a number where a string is declared becomes one.
    """

    opening: ClassVar[str] = "<|tool_call>"
    closing: ClassVar[str] = "<tool_call|>"
    quote: ClassVar[str] = '<|"|>'

    def read(self) -> Generator[None, str, None]:
        while (yield from self.content_until(self.opening)):
            yield from self._call()

    def _call(self) -> Reading:
        before = self.opening + (yield from self.skip("call:"))
        name, brace = yield from self.text_until("{", self.closing)
        if brace != "{" or not before.endswith("call:") or not name.strip():
            self.content(before + name + brace)
            return ""
        self.begin_object(name.strip())
        while not (yield from self.skip("}")):
            key = yield from self._key()
            value = yield from self._value(0)
            if value is _CUT:
                return "call"
            self.argument(key, value)
            yield from self.skip(",")
        self.end_object()
        yield from self.skip(self.closing)
        return "call"

    def _key(self) -> Reading:
        if (yield from self.skip(self.quote)):
            key, _ = yield from self.text_until(self.quote)
            yield from self.skip(":")
        else:
            key, _ = yield from self.text_until(":")
        return key.strip().strip("\"'")

    def _value(self, depth: int) -> Value:
        if (yield from self.skip(self.quote)):
            text, end = yield from self.text_until(self.quote, longest=1 << 24)
            return text if end else _CUT
        yield from self.blanks()
        char = yield from self.peek()
        if char in ("{", "[") and depth < _DEEPEST:
            yield
            return (yield from (self._object(depth + 1) if char == "{" else self._array(depth + 1)))
        return (yield from self._bare())

    def _object(self, depth: int) -> Value:
        found: dict[str, Any] = {}
        while not (yield from self.skip("}")):
            key = yield from self._key()
            value = yield from self._value(depth)
            if value is _CUT:
                return _CUT
            found[key] = value
            yield from self.skip(",")
        return found

    def _array(self, depth: int) -> Value:
        found: list[Any] = []
        while not (yield from self.skip("]")):
            value = yield from self._value(depth)
            if value is _CUT:
                return _CUT
            found.append(value)
            if not (yield from self.skip(",")):
                yield from self.skip("]")
                break
        return found

    def _bare(self) -> Value:
        """A number, a word, or a string as JSON writes it."""
        read, quoted, escaped = "", False, False
        while char := (yield):
            if char in ",}]" and not quoted:
                self.unread(char)
                return _scalar(read)
            quoted ^= char == '"' and not escaped and (quoted or not read.strip())
            escaped = char == "\\" and not escaped
            read += char
        return _CUT


class Gemma3(Gemma4):
    """FunctionGemma's tokens, and what Gemma 3 was shown: calls of declared tools in Python, within a fence."""

    opening = "<start_function_call>"
    closing = "<end_function_call>"
    quote = "<escape>"

    def read(self) -> Generator[None, str, None]:
        while opener := (yield from self.content_until(self.opening, _FENCE)):
            if opener == self.opening:
                yield from self._call()
            else:
                yield from self._fenced()

    def _fenced(self) -> Reading:
        source, end = yield from self.text_until(_FENCE_END, longest=1 << 20)
        calls = _python_calls(source)
        if not calls or not all(name in self.types for name, _ in calls):
            self.content(_FENCE + source + end)
            return ""
        for name, arguments in calls:
            self.begin(name)
            self.arguments(json_text(self.types[name].conformed(arguments)))
        return "calls"


def gemma3(template: str) -> int:
    fenced = "tool_code" in template and "<start_of_turn>" in template
    return 100 if fenced or "<start_function_call>" in template else 0


def gemma4(template: str) -> int:
    return 100 if "<|tool_call>" in template and "<tool_call|>" in template else 0


def _scalar(text: str) -> Any:
    stripped = text.strip()
    try:
        return json.loads(stripped, parse_constant=str, parse_float=_finite)
    except (ValueError, RecursionError):
        return stripped


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is out of range")
    return number


def _python_calls(source: str) -> list[tuple[str, dict[str, Any]]]:
    """The calls that a source consists of, also those whose results it prints; none where there is anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            body = ast.parse(source.strip()).body
        nodes = [node for statement in body for node in _expressions(statement)]
        return [_python_call(node) for node in nodes]
    except _FAULTS:
        return []


def _expressions(statement: ast.stmt) -> list[ast.expr]:
    """The calls of one statement, which may be a list of them."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    match value:
        case ast.List(elts=items):
            return items
        case ast.Call(func=ast.Name(id="print"), args=[shown], keywords=[]):
            return [shown]
        case ast.expr():
            return [value]
    raise ValueError("no call")


def _python_call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("no call by keywords")
    return ast.unparse(node.func), {str(keyword.arg): literal(keyword.value) for keyword in node.keywords}
