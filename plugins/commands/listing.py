"""`max list`: what the plugins offer, and where it is from."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from maxserve.config import plugin_options
from maxserve.interfaces.architecture import Architecture, WeightMap
from maxserve.interfaces.errors import UsageError
from maxserve.interfaces.quantization import QuantizationFormat
from maxserve.interfaces.routes import Probe
from maxserve.interfaces.weight_format import WeightFormat
from maxserve.plugins.commands.locate import declared, locate
from maxserve.plugins.commands.table import table
from maxserve.registry import Entry, Registry, nearest, where, words

if TYPE_CHECKING:
    from maxserve.registry import Host, Invocation

HEAD = ("kind", "name", "provider")
INDENT = " " * 4
PLAIN = ("name", "build", "summary")  # fields that have a place of their own
FORMATS = (WeightFormat.kind, QuantizationFormat.kind)
REFS = ("config", "params", "load", "fallback")
LONG = (*REFS, "weights", "example_repos", "required_arguments")  # only JSON has room for them
MAX_NAMES = ("encodings", "example_repos")  # JSON has them under the names that MAX gives them


def list_command(invocation: Invocation) -> click.Command:
    """The command; plugins that are broken are missing from its answer and named below it."""

    def listing(kind: str | None, formats: bool, as_json: bool) -> None:
        if formats and kind is not None:
            raise UsageError(f"--formats lists kinds of its own; leave out it, or {kind}")
        chosen = formats_of(invocation.host) if formats else choose(invocation.host, kind)
        if as_json:
            click.echo(json.dumps(report(chosen), indent=2))
            return
        click.echo(_text([entry for registry in chosen for entry in registry]))
        for error in invocation.host.problems:
            click.echo(f"Warning: {error}", err=True)

    return click.Command(
        "list",
        callback=listing,
        params=[
            click.Argument(
                ["kind"], required=False, shell_complete=lambda ctx, param, word: kinds(invocation.host, word)
            ),
            click.Option(
                ["--formats"], is_flag=True, help="List the formats of weight files and of quantized weights."
            ),
            click.Option(["as_json", "--json"], is_flag=True, help="Print everything as JSON."),
            *plugin_options(),
        ],
        help="List what the plugins offer: everything, or only one KIND, such as architectures.",
    )


def choose(host: Host, kind: str | None) -> Sequence[Registry[Any]]:
    """The registries of a kind named in singular or plural, all without a name; UsageError for an unknown kind."""
    if kind is None:
        return host.registries
    wanted = kind.lower().replace("-", "_").replace(" ", "_")
    for registry in host.registries:
        if wanted in (registry.kind, plural(registry.kind), registry.kind.removesuffix("s")):
            return [registry]
    kinds = [plural(registry.kind) for registry in host.registries]
    raise UsageError(f"there is no kind {kind!r}{nearest(wanted, kinds)}; the kinds are: {', '.join(kinds)}")


def formats_of(host: Host) -> Sequence[Registry[Any]]:
    """The registries of formats that weights are read in."""
    return [registry for registry in host.registries if registry.kind in FORMATS]


def kinds(host: Host, beginning: str) -> list[str]:
    """The kinds whose names begin so."""
    names = (plural(registry.kind).replace("_", "-") for registry in host.registries)
    return sorted(name for name in names if name.startswith(beginning))


def plural(kind: str) -> str:
    """The kind as it is called in `max list`."""
    if kind.endswith("s"):
        return kind
    return kind.removesuffix("y") + "ies" if kind.endswith("y") else kind + "s"


def report(registries: Sequence[Registry[Any]]) -> dict[str, dict[str, Any]]:
    """Everything there is to know of what is offered, by kind and name, as JSON has it."""
    return {plural(registry.kind): {entry.name: _facts(entry) for entry in registry} for registry in registries}


def _facts(entry: Entry[Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "summary": entry.component.summary,
        "plugin": entry.plugin,
        "origin": entry.origin,
        "distribution": entry.distribution or None,
        "version": entry.version or None,
        "build": entry.where,
        "source": locate(entry.component.build),
        "declared": declared(entry.path, entry.name) or None,
    }
    if isinstance(entry.component, Architecture):
        facts["example_repo_ids"] = list(entry.component.example_repos)
        facts["supported_encodings"] = list(entry.component.encodings)
        facts["support"] = _support(entry.component)
    options = {name: _plain(name, value) for name, value in _options(entry.component) if name not in MAX_NAMES}
    return {**facts, **options}


def _support(architecture: Architecture) -> str:
    """Whether it serves the models it is named after, or those that no other architecture serves."""
    return "native" if architecture.fallback is None else "fallback"


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, WeightMap):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: dataclasses.asdict(each) if isinstance(each, Probe) else each for key, each in value.items()}
    return where(value) if callable(value) or (name in REFS and value is not None) else value


def _options(component: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(component):
        if field.name not in PLAIN:
            value = getattr(component, field.name)
            yield field.name, tuple(sorted(value)) if isinstance(value, frozenset) else value


def _text(entries: Sequence[Entry[Any]]) -> str:
    """A line for each entry, with what else there is to say of it below, cut to the terminal."""
    width = shutil.get_terminal_size((100, 24)).columns
    head, *rows = table(HEAD, [_row(entry) for entry in entries]).splitlines()
    lines = [head]
    for row, entry in zip(rows, entries, strict=True):
        lines += textwrap.wrap(row, width, subsequent_indent=INDENT, break_on_hyphens=False)
        for text in filter(None, (entry.component.summary, "  ".join([entry.where, *_flags(entry.component)]))):
            lines += textwrap.wrap(text, width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)
    return "\n".join(lines)


def _row(entry: Entry[Any]) -> tuple[str, ...]:
    distribution = f" ({entry.distribution} {entry.version})" if entry.distribution else ""
    return (words(entry.kind), entry.name, entry.plugin + distribution)


def _flags(component: Any) -> Iterator[str]:
    """What a component sets besides its name, as words: `keeps_argmax`, `stage=10`."""
    if isinstance(component, Architecture):
        yield _support(component)
    defaults = {field.name: field.default for field in dataclasses.fields(component)}
    for name, value in _options(component):
        if (value == defaults[name] and name != "encodings") or name in LONG:
            continue
        if isinstance(value, bool):
            yield name if value else f"{name}=no"
        elif isinstance(value, Mapping):
            if value:
                yield f"{name}={','.join(value)}"
        elif isinstance(value, tuple):
            yield f"{name}={','.join(map(str, value))}"
        else:
            yield f"{name}={value}"
