"""The Jinja templates of a model, from its files to the text that one renders.

They come with the model, so they run sandboxed and within bounds; they see the names and filters that transformers
gives them, and the same text comes out. What a client's conversation has to become first is `chat_renderer`'s part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes

from maxserve.interfaces.chat_template import ChatTemplate
from maxserve.interfaces.errors import ModelError, RequestError
from maxserve.loading import read_optional_object
from maxserve.plugins.api.common.template_ends import template_ends
from maxserve.plugins.api.common.template_sandbox import (
    OutOfTime,
    TemplateOverrun,
    is_bounded,
    template_budget,
    template_environment,
    within,
)

# What a template does wrong with a conversation it was not written for surfaces as one of these.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
# What a file that is no template, or a monstrous one, does to the compiler.
_COMPILER_FAULTS = (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError)
_END_SECONDS = 5.0  # for finding out how messages end; a template in use takes some hundredths of one
_CHANGE = re.compile(r"\.\s*(append|pop)\b")


class JinjaTemplate:
    """The templates of one model. Rendering is safe from several threads at once."""

    def __init__(self, sources: Mapping[str, str], origin: str = "the chat template") -> None:
        self._origin = origin
        self._sources = dict(sources)
        self._compiled = {name: _compile(source, origin) for name, source in sources.items()}
        self._changing = {name for name, source in sources.items() if _CHANGE.search(source)}

    @classmethod
    def load(cls, path: str, override: str | None) -> JinjaTemplate:
        """The template of a model folder, or the one in the file `override`.

        ModelError if it cannot be read, or takes forever for the shortest conversation.
        """
        template = cls(*find_templates(path, override))
        template.check_ends()
        return template

    @property
    def present(self) -> bool:
        """Whether the model has a template at all."""
        return bool(self._sources)

    def source(self, *, tools: bool = False) -> str | None:
        """The Jinja text used with or without tools."""
        return self._sources[self._choose(tools)] if self.present else None

    def check_ends(self) -> None:
        """ModelError for a template that does not come to an end with one short message."""
        values = {"messages": [{"role": "user", "content": "?"}], "tools": None, "add_generation_prompt": True}
        for name in self._compiled:
            try:
                with template_budget(probe=True):
                    self._render(name, values)
            except RequestError as error:
                if isinstance(error.__cause__, TemplateOverrun):
                    reason = f"cannot be used: {error.__cause__}; give another one with --chat-template"
                    raise ModelError(f"{self._origin} {reason}") from error
                # else it wants another conversation

    def render(self, variables: Mapping[str, Any], *, tools: bool = False) -> str:
        """The text that the template used with or without tools makes of JSON values.

        Templates read `messages`, `tools`, `documents`, `add_generation_prompt` and the special tokens by role
        (`Tokenizer.special_tokens`). RequestError when there is no template or it refuses the conversation.
        """
        if is_bounded():
            return self._render(self._choose(tools), variables)
        with template_budget():
            return self._render(self._choose(tools), variables)

    def end_tokens(self, special: Mapping[str, str], added: Collection[str]) -> Sequence[str]:
        """The tokens out of `added` that end an assistant's message; `special` are the special tokens by role."""
        try:
            return within(_END_SECONDS, lambda: template_ends(self, special, added))
        except (OutOfTime, MemoryError) as error:
            raise ModelError(
                f"the model's chat template comes to no end with two short messages: {error or 'no memory is left'}; "
                "give another one with --chat-template"
            ) from error

    def _choose(self, tools: bool) -> str:
        if not self._sources:
            raise RequestError(
                "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE",
                param="messages",
            )
        if tools and "tool_use" in self._sources:
            return "tool_use"
        if "default" not in self._sources:
            names = ", ".join(sorted(self._sources))
            raise RequestError(f"this model has several chat templates ({names}) and none is the default one")
        return "default"

    def _render(self, name: str, variables: Mapping[str, Any]) -> str:
        if name in self._changing:  # what it is given, maybe: that is needed again
            variables = {key: _copied(value) for key, value in variables.items()}
        try:
            return self._compiled[name].render(**variables)
        except _TEMPLATE_FAULTS as error:
            reason = str(error) or type(error).__name__
            raise RequestError(f"the chat template refused the conversation: {reason}", param="messages") from error


def syntax_tree(template: ChatTemplate, *, tools: bool = False) -> jinja2.nodes.Template | None:
    """The Jinja text used with or without tools, parsed; None where there is none."""
    source = template.source(tools=tools)
    return None if source is None else template_environment().parse(source)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _compile(source: str, origin: str) -> jinja2.Template:
    try:
        return template_environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"{origin} is not a valid Jinja template: {error.message} (line {error.lineno}); "
            "give another one with --chat-template"
        ) from error
    except _COMPILER_FAULTS as error:
        reason = str(error) or type(error).__name__
        raise ModelError(f"{origin} cannot be compiled: {reason}; give another one with --chat-template") from error


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
