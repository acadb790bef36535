"""JSON files of a model folder, with errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError

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
