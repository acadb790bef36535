"""The tokenizer of a model folder.

Folders with a tokenizer.json are read with the `tokenizers` library alone: importing transformers costs seconds and
hundreds of megabytes. Other folders are left to transformers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.tokenizer import SpecialTokens, Tokenizer, Truncation
from maxserve.loading import read_optional_object
from maxserve.plugins.tokenizers.backed import BackedTokenizer, Backend
from maxserve.plugins.tokenizers.limits import check_growth
from maxserve.plugins.tokenizers.special_tokens import (
    DeclaredTokens,
    declared_ids,
    mark_special,
    named_tokens,
    read_roles,
)
from maxserve.plugins.tokenizers.token_bytes import TokenBytes
from maxserve.registry import cause

_CODE = "it is code of the model's own repository, and that runs only with --trust-remote-code"
_TYPES = "token_type_ids"
_ID_END = 1 << 32  # the library takes no larger ids


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Tokenizer:
    """The tokenizer of a model folder; ModelError when it has none that can be read.

    `trust_remote_code` lets transformers run Python that comes with the model, when there is no tokenizer.json.
    """
    folder = Path(path)
    if (folder / "tokenizer.json").is_file():
        return _load_json(folder)
    return _load_with_transformers(folder, trust_remote_code)


class TokenizerFolder:
    """A `TokenizerFiles`: a model folder."""

    def __init__(self, path: str, *, trust_remote_code: bool) -> None:
        self._path = path
        self._trusted = trust_remote_code

    def special_tokens(self) -> SpecialTokens:
        return DeclaredTokens(Path(self._path))

    def load(self) -> Tokenizer:
        return load_tokenizer(self._path, trust_remote_code=self._trusted)


class _JsonBackend:
    """A `tokenizers.Tokenizer`, which is never changed again and therefore safe to share between threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, tells_parts: bool = True) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = self.inner = tokenizer
        self._tells_parts = tells_parts  # of a pair, by token types
        self.vocab_size = tokenizer.get_vocab_size()
        self.special_ids = frozenset(i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special)
        self.spelling = TokenBytes(tokenizer)

    @property
    def vocabulary(self) -> Iterable[str]:
        return self._tokenizer.get_vocab()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_input(
        self, text: str, second: str | None, truncation: Truncation | None, add_special_tokens: bool
    ) -> tuple[list[int], int]:
        tokenizer = self._tokenizer
        if truncation is None:
            encoding = tokenizer.encode(text, second, add_special_tokens=add_special_tokens)
        else:
            parts = [tokenizer.encode(part, add_special_tokens=False) for part in (text, second) if part is not None]
            special = tokenizer.num_special_tokens_to_add(second is not None) if add_special_tokens else 0
            lengths = _shares([len(part.ids) for part in parts], truncation.most - special)
            for part, length in zip(parts, lengths, strict=True):
                part.truncate(length, direction=truncation.side)
            pair = parts[1] if second is not None else None
            encoding = tokenizer.post_process(parts[0], pair, add_special_tokens=add_special_tokens)
        return encoding.ids, _second_part(encoding.type_ids) if self._tells_parts else 0

    def cut_text(self, text: str, most: int) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= most else text[: offsets[most - 1][1]]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        known = [i for i in ids if 0 <= i < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)

    def token(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id) if 0 <= token_id < _ID_END else None

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


class _PythonBackend:
    """A transformers tokenizer written in Python; those keep state while they work, hence the lock."""

    spelling = None
    inner = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self.vocab_size: int = len(tokenizer)
        self.special_ids = frozenset(tokenizer.all_special_ids)

    @property
    def vocabulary(self) -> Iterable[str]:
        with self._lock:
            return list(self._tokenizer.get_vocab())

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def encode_input(
        self, text: str, second: str | None, truncation: Truncation | None, add_special_tokens: bool
    ) -> tuple[list[int], int]:
        options: dict[str, Any] = {"add_special_tokens": add_special_tokens}
        if truncation is not None:
            options |= {"truncation": "longest_first", "max_length": truncation.most}
        with self._lock:
            self._tokenizer.truncation_side = "right" if truncation is None else truncation.side
            found = self._tokenizer(text, second, **options)
        return list(found["input_ids"]), _second_part(found.get("token_type_ids", ()))

    def cut_text(self, text: str, most: int) -> str:
        ids = self.encode(text, add_special_tokens=False)
        return text if len(ids) <= most else self.decode(ids[:most], skip_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        known = [i for i in ids if 0 <= i < self.vocab_size]
        with self._lock:
            return str(
                self._tokenizer.decode(
                    known, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
                )
            )

    def token(self, token_id: int) -> str | None:
        if not 0 <= token_id < self.vocab_size:
            return None
        with self._lock:
            return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def token_id(self, token: str) -> int | None:
        with self._lock:
            found = self._tokenizer.convert_tokens_to_ids(token)
            unknown = found == self._tokenizer.unk_token_id and token != self._tokenizer.unk_token
        return None if found is None or unknown else int(found)


def _second_part(types: Sequence[int]) -> int:
    """Where token types go from 0 to 1; 0 where they never do."""
    return types.index(1) if 1 in types else 0


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each part stays in a room for all: what is too much is taken off the longest, token by token."""
    room = max(room, 0)
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    shorter = min(lengths)
    length = min(shorter, room // 2)
    return [length, room - length] if lengths[0] == shorter else [room - length, length]


def _load_json(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except BaseException as error:  # the library raises plain Exception, or panics, which is none
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ModelError(f"{file} cannot be read by tokenizers {tokenizers.__version__}: {cause(error)}") from error
    check_growth(tokenizer, file)
    roles = read_roles(folder)
    mark_special(tokenizer, roles, declared_ids(folder, roles), _room(folder))
    tokenizer.encode_special_tokens = roles.get("split_special_tokens") is True
    return BackedTokenizer(_JsonBackend(tokenizer, tells_parts=_tells_parts(folder)), named_tokens(roles))


def _room(folder: Path) -> int:
    """How many tokens the model has an embedding for, by its config."""
    config = read_optional_object(folder / "config.json")
    part = config.get("text_config")
    found = config.get("vocab_size", part.get("vocab_size") if isinstance(part, dict) else None)
    return found if isinstance(found, int) else 0


def _tells_parts(folder: Path) -> bool:
    """Whether the model wants token types; where tokenizer_config.json does not say, it gets what there is of them."""
    names = read_optional_object(folder / "tokenizer_config.json").get("model_input_names")
    return _TYPES in names if isinstance(names, list) else True


def _brings_code(folder: Path) -> bool:
    return "auto_map" in read_optional_object(folder / "tokenizer_config.json")


def _load_with_transformers(folder: Path, trust_remote_code: bool) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever it stumbles over, the folder's tokenizer is what is wrong
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder} has no tokenizer.json and transformers finds no tokenizer there either: "
            + (reason if trust_remote_code or not _brings_code(folder) else _CODE)
        ) from error
    inner = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    tells_parts = _TYPES in tokenizer.model_input_names
    backend: Backend = _PythonBackend(tokenizer) if inner is None else _JsonBackend(inner, tells_parts=tells_parts)
    return BackedTokenizer(backend, dict(tokenizer.special_tokens_map))
