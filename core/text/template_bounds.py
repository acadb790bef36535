"""Bounds on the filters, methods and operators of chat templates that can make much out of little."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from types import BuiltinMethodType
from typing import Any

from maxserve.core.text.template_budget import check_growth, check_length, check_width

# Filters whose numbers are widths, counts or digits, and may not be absurd.
_NUMBERED = ("batch", "center", "indent", "round", "slice", "tojson", "truncate", "wordwrap")
_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_DIRECTIVE = re.compile(r"%[-+#0 ]*[\d.*]*|\{[^{}]*\}")
_WIDTH = re.compile(r"\d{1,4000}")


def bounded_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Those that need a bound, with one."""
    bounded = {name: _with_check(filters[name], _check_numbers, at=_arguments) for name in _NUMBERED}
    bounded["format"] = _with_check(filters["format"], _check_format, at=_value)
    bounded["indent"] = _with_check(bounded["indent"], _check_indent)
    bounded["join"] = _with_check(filters["join"], _check_join, at=_value)
    bounded["replace"] = _with_check(filters["replace"], _check_replace, at=_value)
    return bounded


def check_call(called: Any, args: tuple[Any, ...]) -> None:
    """TemplateOverrun for a method of a text or list that would make an absurdly long one."""
    method = getattr(called, "__wrapped__", called)  # the sandbox wraps `format`
    if not isinstance(method, BuiltinMethodType):
        return
    text, name = method.__self__, method.__name__
    if isinstance(text, list) and name == "append":
        check_growth(len(text))
    if not isinstance(text, str):
        return
    if name in _METHODS:
        _check_numbers(*args)
    elif name in ("format", "format_map"):
        _check_format(text)
    elif name == "join" and args:
        _check_join(args[0], text)
    elif name == "replace":
        _check_replace(text, *args)


def check_operation(operator: str, left: Any, right: Any) -> None:
    """TemplateOverrun for an operation whose result would be absurdly long."""
    if operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
        check_length(len(left) + len(right), left)
    elif operator == "*":
        _check_product(left, right)
        _check_product(right, left)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        check_length(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str):
        _check_format(left, *(right if isinstance(right, tuple) else (right,)))


def _with_check(work: Callable[..., Any], check: Callable[..., None], at: Callable[..., int] | None = None) -> Any:
    """`work` after a check of what it is given, without what jinja2 itself puts in front."""
    first = 0 if at is None else at(work)

    @wraps(work)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(*args[first:], *kwargs.values())
        return work(*args, **kwargs)

    return checked


def _value(work: Callable[..., Any]) -> int:
    """Where the value stands among the arguments of a filter that jinja2 gives its context or environment."""
    return int(hasattr(work, "jinja_pass_arg"))


def _arguments(work: Callable[..., Any]) -> int:
    """Where the arguments of a filter begin, behind its value: a number that is shown is no width."""
    return _value(work) + 1


def _check_product(one: Any, count: Any) -> None:
    if isinstance(count, int) and isinstance(one, str | list | tuple):
        check_length(len(one) * count, one)


def _check_numbers(*values: Any) -> None:
    for value in values:
        check_width(value)


def _check_format(text: Any, *values: Any) -> None:
    directives = "".join(_DIRECTIVE.findall(str(text)))
    for width in _WIDTH.findall(directives):
        check_width(int(width))
    if "*" in directives:
        _check_numbers(*values)


def _check_indent(text: Any, width: Any = 4, *_: Any) -> None:
    lines = str(text).count("\n") + 1
    check_length(len(str(text)) + lines * (width if isinstance(width, int) else len(str(width))))


def _check_join(values: Any, between: Any = "", *_: Any) -> None:
    if isinstance(values, Collection):
        lengths = sum(len(value) for value in values if isinstance(value, str))
        check_length(lengths + len(str(between)) * len(values))


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    check_length(len(text) + text.count(old) * len(new))
