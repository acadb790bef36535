"""The tokens that a model folder declares by name, read without building a tokenizer.

A vocabulary of some hundred thousand entries is parsed only where a token is asked for that no list of added tokens
has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.json_files import read_optional_object


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[Any, ...]] = {}


class _File(msgspec.Struct):
    added_tokens: list[_Added] = []
    model: msgspec.Raw = msgspec.Raw(b"{}")


class DeclaredTokens:
    """Ids by text. `added` are the tokens that are found in a text as a whole, wherever they are declared."""

    def __init__(self, folder: Path) -> None:
        self._file = _read(folder / "tokenizer.json")
        listed = {token.content: token.id for token in self._file.added_tokens}
        self.added: Mapping[str, int] = {**_beside(folder), **listed}

    def id(self, text: str) -> int | None:
        """The id of a token, if the folder declares it."""
        found = self.added.get(text)
        return self._vocabulary.get(text) if found is None else found

    @cached_property
    def _vocabulary(self) -> Mapping[str, int]:
        try:
            vocab = msgspec.json.decode(self._file.model, type=_Model).vocab
        except (msgspec.DecodeError, RecursionError):
            return {}  # the build of the tokenizer says what is wrong with it
        return vocab if isinstance(vocab, dict) else {str(entry[0]): i for i, entry in enumerate(vocab) if entry}


def _read(file: Path) -> _File:
    if not file.is_file():
        return _File()
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {error}; the file may be damaged, fetch it again") from error


def _beside(folder: Path) -> dict[str, int]:
    """Tokens that tokenizer_config.json declares, or else added_tokens.json, a file of older releases of transformers.

    What is no token id, or no text, is left to who builds the tokenizer.
    """
    declared = read_optional_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if declared is None:
        older = read_optional_object(folder / "added_tokens.json")
        return {text: id for text, id in older.items() if isinstance(id, int)}
    entries = declared.items() if isinstance(declared, Mapping) else ()
    return {
        entry["content"]: int(id)
        for id, entry in entries
        if id.isdecimal() and isinstance(entry, Mapping) and isinstance(entry.get("content"), str)
    }
