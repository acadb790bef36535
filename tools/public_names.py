"""The public names of maxserve with what they are made of: docs/api.md, and what `maxserve.v1` promises to keep.

`python tools/public_names.py` writes docs/api.md; with `--check` it only says whether that is out of date (exit status
1). `--freeze` writes tests/compat/v1/names.json, which later releases are held to: for the release only.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, get_args, get_origin

import msgspec

from maxserve import interfaces
from maxserve.core import hookspecs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
FROZEN = ROOT / "tests" / "compat" / "v1" / "names.json"
MODULES = ("maxserve", *(f"maxserve.interfaces.{m.name}" for m in iter_modules(interfaces.__path__)))
FACES = ("layers", "http", "text", "loading", "config", "options", "registry", "runtime", "testing", "weights")
FACES += ("adapters", "memory", "speculation", "quantization", "scheduling", "vision")  # of plugins
MODULES += tuple(f"maxserve.{name}" for name in FACES)
HEAD = """# Public names

Every name that a plugin may import, with its fields or its signature. Written by `python tools/public_names.py`; a test
sees to it that it is current. How the names belong together is in [hooks.md](hooks.md). The entry-point group
`maxserve.v1` promises this list: names stay, fields keep their types, new fields have defaults.
"""


def described() -> dict[str, dict[str, list[str]]]:
    """The parts of every public name, by module and name; names that come from another public module are there."""
    return {module: {name: list(parts(found)) for name, found in _own(module)} for module in MODULES}


def hooks() -> dict[str, list[str]]:
    """The arguments of every hook."""
    found = {name: value for name, value in vars(hookspecs).items() if name.startswith("maxserve_")}
    return {name: list(inspect.signature(value).parameters) for name, value in found.items()}


def _own(module: str) -> Iterator[tuple[str, Any]]:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [name for name in vars(loaded) if name[0] != "_" and name != "annotations"])
    return ((name, getattr(loaded, name)) for name in sorted(names, key=str.lower))


def parts(found: Any) -> Iterator[str]:
    """Fields and methods of a class, the signature of a function, the values of a Literal; a line each."""
    if get_origin(found) is Literal:
        yield from map(repr, get_args(found))
        return
    if not inspect.isclass(found):
        yield _signature(found) if callable(found) else _value(found)
        return
    if dataclasses.is_dataclass(found):
        yield from (_field(field) for field in dataclasses.fields(found))
    elif issubclass(found, msgspec.Struct):
        yield from (
            f"{field.name}: {_type(field.type)}{_struct_default(field)}" for field in msgspec.structs.fields(found)
        )
    elif issubclass(found, enum.Enum):
        yield from (f"{each.name} = {each.value!r}" for each in found)
    elif "__init__" in vars(found) and not getattr(found, "_is_protocol", False):
        yield _signature(found)
    yield from _attributes(found)
    yield from _methods(found)


def _field(field: dataclasses.Field[Any]) -> str:
    missing = dataclasses.MISSING
    optional = field.default is not missing or field.default_factory is not missing
    text = _type(field.type)
    if field.default is not missing:
        return f"{field.name}: {text} = {_value(field.default)}"
    return f"{field.name}: {text}{' = …' if optional else ''}"


def _struct_default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f" = {_value(field.default)}"
    return " = …" if field.default_factory is not msgspec.NODEFAULT else ""


def _attributes(found: type[Any]) -> Iterator[str]:
    """What a Protocol or a class of checks has beside methods."""
    if dataclasses.is_dataclass(found) or issubclass(found, msgspec.Struct):
        return
    kinds = {name: kind for base in _written_in(found) for name, kind in inspect.get_annotations(base).items()}
    for name, kind in kinds.items():
        if not name.startswith("_"):
            yield f"{name}: {_type(kind)}"


def _methods(found: type[Any]) -> Iterator[str]:
    for name, value in {name: value for base in _written_in(found) for name, value in vars(base).items()}.items():
        if name.startswith(("_", "test_")):
            continue
        if isinstance(value, property):
            yield f"{name} (property)"
        elif isinstance(value, staticmethod | classmethod) or inspect.isfunction(value):
            yield name + _signature(getattr(value, "__func__", value))


def _written_in(found: type[Any]) -> list[type[Any]]:
    """The class, behind those of its bases that are ours and no public name, such as what classes of checks share."""
    ours = [base for base in found.__mro__[1:] if base.__module__.startswith("maxserve.")]
    return [*(base for base in reversed(ours) if base not in _public()), found]


@functools.cache
def _public() -> set[type[Any]]:
    return {found for module in MODULES for _, found in _own(module) if inspect.isclass(found)}


def _signature(found: Any) -> str:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return "(…)"
    given = [p for name, p in signature.parameters.items() if name not in ("self", "cls")]
    returned = signature.return_annotation
    result = "" if returned in (inspect.Signature.empty, "None", None) else f" -> {_type(returned)}"
    return f"({', '.join(_parameter(p) for p in given)}){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    empty = inspect.Parameter.empty
    kind = "" if parameter.annotation is empty else f": {_type(parameter.annotation)}"
    default = "" if parameter.default is empty else f" = {_value(parameter.default)}"
    return f"{stars}{parameter.name}{kind}{default}"


def _type(kind: Any) -> str:
    text = kind if isinstance(kind, str) else getattr(kind, "__name__", "") if isinstance(kind, type) else str(kind)
    return re.sub(r"\b(?:[a-z_]+\.)+([A-Z])", r"\1", text)


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 and " at 0x" not in text and "<" not in text else "…"


def page() -> str:
    """docs/api.md."""
    sections = [HEAD]
    known: dict[int, str] = {}
    for module in (*MODULES[1:], MODULES[0]):
        for name, found in _own(module):
            known.setdefault(id(found), f"{module}.{name}")
    for module in MODULES:
        sections.append(f"## {module}\n")
        own = [(name, found, known.get(id(found), "")) for name, found in _own(module)]
        elsewhere = [f"- `{name}`: `{home}`" for name, found, home in own if _is_elsewhere(module, name, found, home)]
        sections += [*elsewhere, ""] if elsewhere else []
        here = [(name, found) for name, found, home in own if not _is_elsewhere(module, name, found, home)]
        sections += [_entry(name, found) for name, found in here]
    return "\n".join(sections).rstrip() + "\n"


def _is_elsewhere(module: str, name: str, found: Any, home: str) -> bool:
    """Whether a name is shown where another public module has it."""
    return inspect.isclass(found) and home != f"{module}.{name}"


def _entry(name: str, found: Any) -> str:
    first = (inspect.getdoc(found) or "").partition("\n\n")[0].replace("\n", " ") if callable(found) else ""
    lines = "\n".join(f"    {line}" for line in parts(found))
    return f"### {name}\n\n{first}\n\n{lines}\n" if lines else f"### {name}\n\n{first}\n"


def main() -> int:
    if "--freeze" in sys.argv:
        FROZEN.write_text(json.dumps({"hooks": hooks(), "names": described()}, indent=1, ensure_ascii=False) + "\n")
        return 0
    written = page()
    if "--check" in sys.argv:
        return int(PAGE.read_text(encoding="utf-8") != written)
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
