"""How is a model folder's JSON read, so that a bad file is one clear line?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maxserve.core.errors import ModelError


def read_value(path: Path) -> Any:
    """The JSON in `path`; ModelError naming the file when it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}; the file may be damaged, fetch it again") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; ModelError naming the file when it is not one."""
    content = read_value(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__} where a JSON object was expected")
    return content


def read_optional_object(path: Path) -> dict[str, Any]:
    """Like `read_object`, and {} when there is no such file."""
    return read_object(path) if path.is_file() else {}
