"""The sandbox in which chat templates run.

The names, filters and tags are those that transformers offers, since templates are written against it. What one
rendering may cost is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor

from maxserve.core.text.template_bounds import bounded_filters, check_call, check_operation
from maxserve.core.text.template_budget import counted, measured, spend

_COUNTED = "counted_by_the_sandbox"
_MEASURED = "measured_by_the_sandbox"

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
    environment.filters |= bounded_filters(environment.filters)
    environment.filters |= {_COUNTED: counted, _MEASURED: measured}
    environment.globals.pop("lipsum", None)  # random text of any length
    environment.globals["dict"] = _Dict()
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment


def iterates_over_content(source: str) -> bool:
    """Whether a template walks through the parts of a message's content, rather than expecting a string."""
    tree = template_environment().parse(source)
    return any(_names_content(loop.iter, _aliases(tree)) for loop in tree.find_all(jinja2.nodes.For))


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
        check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(*args: Any, **kwargs: Any) -> Any:  # a template may call with any name, `self` included
        self, context, called, *rest = args
        spend()
        check_call(called, (*rest, *kwargs.values()))
        return jinja2.sandbox.SandboxedEnvironment.call(self, context, called, *rest, **kwargs)


class _Bounding(jinja2.visitor.NodeTransformer):
    """Counts what loops go through, and measures texts that are put together."""

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


def _aliases(tree: jinja2.nodes.Template) -> set[str]:
    """Variables the template sets to a message's content."""
    sets = tree.find_all(jinja2.nodes.Assign)
    return {s.target.name for s in sets if isinstance(s.target, jinja2.nodes.Name) and _names_content(s.node, set())}


def _names_content(node: jinja2.nodes.Node, aliases: set[str]) -> bool:
    checks: dict[type[jinja2.nodes.Node], Callable[[Any], bool]] = {
        jinja2.nodes.Name: lambda n: n.name in aliases or n.name == "content",
        jinja2.nodes.Getattr: lambda n: n.attr == "content",
        jinja2.nodes.Getitem: lambda n: isinstance(n.arg, jinja2.nodes.Const) and n.arg.value == "content",
        jinja2.nodes.Filter: lambda n: n.node is not None and _names_content(n.node, aliases),
    }
    check = checks.get(type(node))
    return check is not None and check(node)
