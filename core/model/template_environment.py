"""In what surroundings do chat templates run?

The names, filters and tags are those that transformers offers, since templates are written against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils


def template_environment() -> jinja2.Environment:
    """A sandbox in which templates can change nothing they are given."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment


def iterates_over_content(source: str) -> bool:
    """Whether a template walks through the parts of a message's content, rather than expecting a string."""
    tree = template_environment().parse(source)
    return any(_names_content(loop.iter, _aliases(tree)) for loop in tree.find_all(jinja2.nodes.For))


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
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}: it begins with an underscore")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


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
