"""The sandbox in which chat templates run.

The names, filters and tags are those that transformers offers, since templates are written against it. Templates come
with the model, and some never end. Jinja's own sandbox bounds neither steps nor texts: here the steps of loops and
calls are _counted, and filters, methods and operators that can make much out of little are checked first.
"""

from __future__ import annotations

import ctypes
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType
from typing import Any, Generic, TypeVar

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor
import msgspec

T = TypeVar("T")

MOST_STEPS = 20_000_000
MOST_SECONDS = 60.0
LONGEST_TEXT = 1 << 27  # characters
LONGEST_LIST = 1 << 22
LONGEST_GROWN = 1 << 18  # items of a list that grows by one at a time, as one does that is looped over meanwhile
WIDEST = 1 << 20  # to which a text may be filled up
_CHECK_EVERY = 1 << 14
PROBE_STEPS, PROBE_SECONDS = 100_000, 20.0  # of conversations made to find out about a template

_COUNTED = "counted_by_the_sandbox"
_MEASURED = "measured_by_the_sandbox"
# Filters whose numbers are widths, counts or digits, and may not be absurd.
_NUMBERED = ("batch", "center", "indent", "round", "slice", "tojson", "truncate", "wordwrap")
_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_DIRECTIVE = re.compile(r"%[-+#0 ]*[\d.*]*|\{[^{}]*\}")
_WIDTH = re.compile(r"\d{1,4000}")

_stand_ins: ContextVar[Mapping[str, str]] = ContextVar("stand_ins")


@contextmanager
def stand_ins(characters: Mapping[str, str]) -> Iterator[None]:
    """Characters that stand for others, by which they are keyed, while templates run inside of it, on this thread."""
    token = _stand_ins.set(characters)
    try:
        yield
    finally:
        _stand_ins.reset(token)


def template_environment() -> jinja2.Environment:
    """A sandbox in which templates can change nothing they are given, nor run without end."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols])
    environment.filters |= {name: _escaped(environment.filters[name]) for name in ("e", "escape", "forceescape")}
    environment.filters["tojson"] = _tojson
    environment.filters |= _bounded_filters(environment.filters)
    environment.filters |= {_COUNTED: _counted, _MEASURED: _measured}
    environment.globals.pop("lipsum", None)  # random text of any length
    environment.globals["dict"] = _Dict()
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Counts the steps of loops and calls, and refuses texts of absurd lengths.

    Lists may grow and shrink by an item at a time: templates of Kimi K2 keep the ids of calls so, which transformers
    refuses. What such a template is given is a copy.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        own = isinstance(obj, list) and attr in ("append", "pop")
        return own or super().is_safe_attribute(obj, attr, value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree: jinja2.nodes.Template = _Bounding().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(*args: Any, **kwargs: Any) -> Any:  # a template may call with any name, `self` included
        self, context, called, *rest = args
        _spend()
        _check_call(called, (*rest, *kwargs.values()))
        return jinja2.sandbox.SandboxedEnvironment.call(self, context, called, *rest, **kwargs)


class _Bounding(jinja2.visitor.NodeTransformer):
    """Counts what loops go through, and measures texts that are concatenated."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, _MEASURED)


class _Dict:
    """What templates may do with `dict`, without its methods."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} marks what the assistant says, for training; here only its body counts."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it this way)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [jinja2.nodes.Scope(body).set_lineno(line)]


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore: those lead out of the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # namespace(self=…) is allowed
        self, *rest = args
        for name in dict(*rest, **kwargs):
            _validate_dashes(name)
        jinja2.utils.Namespace.__init__(self, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _validate_dashes(name)
        super().__setitem__(name, value)


def _validate_dashes(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}: it begins with an underscore")


def _filtered(node: Any, name: str) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _escaped(escape: Callable[[Any], str]) -> Callable[[Any], str]:
    """A filter that escapes also what stands for a character that it would escape."""

    @wraps(escape)
    def escaped(value: Any) -> str:
        text = escape(value)
        for stand_in, char in _stand_ins.get({}).items():
            if (entity := escape(char)) != char:
                text = text.replace(stand_in, entity)
        return text

    return escaped


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    for stand_in, char in _stand_ins.get({}).items():
        written, escaped = (json.dumps(each, ensure_ascii=ensure_ascii)[1:-1] for each in (stand_in, char))
        text = text.replace(written, stand_in if escaped == char else escaped)
    return text


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class TemplateOverrun(jinja2.TemplateError):
    """A template did more than one rendering may."""


class _Budget(msgspec.Struct):
    steps: int
    deadline: float
    check_at: int

    def spend(self, count: int) -> None:
        self.steps -= count
        if self.steps > self.check_at:
            return
        self.check_at = self.steps - _CHECK_EVERY
        if self.steps < 0:
            raise TemplateOverrun("it takes too many steps; it may loop without end")
        if time.monotonic() > self.deadline:
            raise TemplateOverrun("it takes too long; it may loop without end")


_current: ContextVar[_Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def template_budget(*, probe: bool = False) -> Iterator[None]:
    """Bounds what templates do inside of it, on this thread; `probe`: small conversations that are over soon."""
    most, seconds = (PROBE_STEPS, PROBE_SECONDS) if probe else (MOST_STEPS, MOST_SECONDS)
    token = _current.set(_Budget(most, time.monotonic() + seconds, most - _CHECK_EVERY))
    try:
        yield
    finally:
        _current.reset(token)


def is_bounded() -> bool:
    """Whether there are bounds already on this thread."""
    return _current.get() is not None


def _spend(count: int = 1) -> None:
    """Counts steps; TemplateOverrun when there were too many."""
    if (current := _current.get()) is not None:
        current.spend(count)


def _counted(values: Any) -> Any:
    """What a loop goes through, counted beforehand."""
    try:
        count = len(values)
    except TypeError:
        values = list(values)
        count = len(values)
    _spend(count + 1)
    return values


def _measured(text: str) -> str:
    """A text that was concatenated; TemplateOverrun when it is longer than any prompt."""
    _check_length(len(text))
    return text


def _check_length(length: int, kind: Any = "") -> None:
    """TemplateOverrun for a text, or a list where `kind` is one, that is longer than any prompt needs."""
    if length > (LONGEST_TEXT if isinstance(kind, str) else LONGEST_LIST):
        raise TemplateOverrun(f"it makes a text or list of length {length}")


def _check_growth(length: int) -> None:
    """TemplateOverrun for a list that has grown by so many items, one at a time."""
    if length > LONGEST_GROWN:
        raise TemplateOverrun(f"it makes a list of more than {LONGEST_GROWN} items, one by one")


def _check_width(width: Any) -> None:
    """TemplateOverrun for a number of characters that no template fills up a text to."""
    if isinstance(width, int) and width > WIDEST:
        raise TemplateOverrun(f"it fills a text up to {width} characters")


def _bounded_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Those that need a bound, with one."""
    bounded = {name: _with_check(filters[name], _check_numbers, at=_arguments) for name in _NUMBERED}
    bounded["format"] = _with_check(filters["format"], _check_format, at=_value)
    bounded["indent"] = _with_check(bounded["indent"], _check_indent)
    bounded["join"] = _with_check(filters["join"], _check_join, at=_value)
    bounded["replace"] = _with_check(filters["replace"], _check_replace, at=_value)
    return bounded


def _check_call(called: Any, args: tuple[Any, ...]) -> None:
    """TemplateOverrun for a method of a text or list that would make an absurdly long one."""
    method = getattr(called, "__wrapped__", called)  # the sandbox wraps `format`
    if not isinstance(method, BuiltinMethodType):
        return
    text, name = method.__self__, method.__name__
    if isinstance(text, list) and name == "append":
        _check_growth(len(text))
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


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """TemplateOverrun for an operation whose result would be absurdly long."""
    if operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
        _check_length(len(left) + len(right), left)
    elif operator == "*":
        _check_product(left, right)
        _check_product(right, left)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_length(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str):
        _check_format(left, *(right if isinstance(right, tuple) else (right,)))


def _with_check(work: Callable[..., Any], check: Callable[..., None], at: Callable[..., int] | None = None) -> Any:
    """`work` after a check of what it is given, without what jinja2 itself passes in front."""
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
        _check_length(len(one) * count, one)


def _check_numbers(*values: Any) -> None:
    for value in values:
        _check_width(value)


def _check_format(text: Any, *values: Any) -> None:
    directives = "".join(_DIRECTIVE.findall(str(text)))
    for width in _WIDTH.findall(directives):
        _check_width(int(width))
    if "*" in directives:
        _check_numbers(*values)


def _check_indent(text: Any, width: Any = 4, *_: Any) -> None:
    lines = str(text).count("\n") + 1
    _check_length(len(str(text)) + lines * (width if isinstance(width, int) else len(str(width))))


def _check_join(values: Any, between: Any = "", *_: Any) -> None:
    if isinstance(values, Collection):
        lengths = sum(len(value) for value in values if isinstance(value, str))
        _check_length(lengths + len(str(between)) * len(values))


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    _check_length(len(text) + text.count(old) * len(new))


class OutOfTime(Exception):
    """What was called took longer than it may."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` gives, or raises; OutOfTime after `seconds`. It runs in a thread, which is ended then."""
    running = _Running(call)
    running.join(seconds)
    if running.is_alive():
        running.end()
        raise OutOfTime(f"it took more than {seconds:g} s")
    return running.result()


class _Running(threading.Thread, Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(daemon=True, name="limited")
        self._call = call
        self._found: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # it is raised again where the result is waited for
            self._error = error

    def end(self) -> None:
        """Raises an exception where the thread runs next; code that is not Python's goes on to its end first."""
        assert self.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._found[0]
