"""JSON files of a model, and bounds of what its config.json may ask for.

A damaged or hostile file ends the start at once, before memory is taken. The bounds are far above the numbers of any
model that there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError

_DEEPEST = 32
_LARGEST_NUMBER = 1 << 62
_MOST = (  # by key, the first that matches
    (re.compile(r"(_|^n_?)(layers?|blocks)$|^(depth|n_layers?)$"), 1 << 12),
    (re.compile(r"(_|^n_?)heads?$|experts"), 1 << 16),
    (re.compile(r"position|max_\w*length|max_seq_len|seq_length|n_ctx"), 1 << 28),
    (re.compile(r"(_|^)(size|dim|rank|channels)$"), 1 << 40),
)


def check_limits(config: Mapping[str, Any]) -> None:
    """ModelError naming a number of `config`, the content of config.json, that no model can have."""
    for path, value in _numbers(config, "", _DEEPEST):
        key = path.rpartition(".")[2]
        most = next((most for pattern, most in _MOST if pattern.search(key)), _LARGEST_NUMBER)
        if abs(value) > most:
            raise ModelError(f"config.json: {path!r} is {_short(value)}, and no model has more than {most}")


def _numbers(value: Any, path: str, depth: int) -> Iterator[tuple[str, int]]:
    """Every whole number within `value`, and where it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield path, value
    if not isinstance(value, Mapping | list):
        return
    if not depth:
        raise ModelError(f"config.json: {path[:80]!r} is nested deeper than the config of any model")
    entries = value.items() if isinstance(value, Mapping) else ((None, each) for each in value)
    for key, each in entries:
        yield from _numbers(each, path if key is None else f"{path}.{key}".lstrip("."), depth - 1)


def _short(value: int) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"a number of {len(text)} digits"


_LARGEST = 256 << 20  # bytes; the largest index of shards in use has some ten megabytes


def read_value(path: Path) -> Any:
    """The JSON in `path`; ModelError naming the file when it is none, or more than any model's."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise _unreadable(path, "it is nested too deeply") from None
    except (OSError, ValueError) as error:  # a number of thousands of digits is a ValueError too
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} cannot be read as JSON: {reason}; the file may be damaged, fetch it again")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; ModelError naming the file when it is not one."""
    content = read_value(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__} where a JSON object was expected")
    return content


def read_optional_object(path: Path) -> dict[str, Any]:
    """Like `read_object`, and {} when there is no such file."""
    return read_object(path) if path.is_file() else {}
