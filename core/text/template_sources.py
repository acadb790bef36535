"""The files of a model's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.json_files import read_optional_object


def find_templates(path: str, override: str | None) -> tuple[dict[str, str], str]:
    """Templates by name and where they were found: the file `override` if given, else what the model folder has.

    Most models have one, named "default"; {} when there is none.
    """
    if override is not None:
        return {"default": _read_override(Path(override).expanduser())}, f"the chat template {override}"
    folder = Path(path)
    files = _jinja_files(folder)
    if files:
        return files, f"the chat template in {folder}"
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = _declared(read_optional_object(folder / name).get("chat_template"))
        if found:
            return found, f"the chat template in {folder / name}"
    return {}, str(folder)


def _jinja_files(folder: Path) -> dict[str, str]:
    files = {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    return {name: _read_text(file) for name, file in files.items()}


def _read_override(file: Path) -> str:
    """The Jinja text in `file`, or under "chat_template" if `file` is a JSON object that has it."""
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise ModelError(f"--chat-template {file}: {what}; give a file with a Jinja template")
    text = _read_text(file)
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError:
        return text
    template = content.get("chat_template") if isinstance(content, Mapping) else None
    return template if isinstance(template, str) else text


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the chat template {file} cannot be read as UTF-8 text: {error}") from error


def _declared(template: Any) -> dict[str, str]:
    if isinstance(template, str):
        return {"default": template}
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return dict(template) if isinstance(template, Mapping) else {}
