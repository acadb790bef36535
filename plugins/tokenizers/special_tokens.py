"""The special tokens of a model folder.

tokenizer.json knows the tokens; the files beside it name their roles (eos_token, …), declare tokens that it lacks, and
say otherwise of others. Who says what last is decided as transformers decides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import tokenizers
from tokenizers import AddedToken

from maxserve.interfaces.errors import ModelError
from maxserve.loading import read_optional_object

_DECLARED = "added_tokens_decoder"
_CONFIG = "tokenizer_config.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_STANDARD = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_EXTRA, _EXTRA_BEFORE = "extra_special_tokens", "additional_special_tokens"


def read_roles(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says and, unless it declares tokens, the older special_tokens_map.json over it."""
    fields = {k: v for k, v in read_optional_object(folder / _CONFIG).items() if v is not None}
    if not fields.get(_EXTRA) and _EXTRA_BEFORE in fields:
        fields[_EXTRA] = fields.pop(_EXTRA_BEFORE)
    if _DECLARED in fields:
        return fields
    return fields | {k: v for k, v in read_optional_object(folder / "special_tokens_map.json").items() if v is not None}


def named_tokens(roles: Mapping[str, Any]) -> dict[str, str]:
    """Token text by role, for chat templates: {"eos_token": "</s>", …}."""
    named = {role: _text(value) for role, value in _by_role(roles).items()}
    return {role: text for role, text in named.items() if text is not None}


def declared_ids(folder: Path, roles: Mapping[str, Any]) -> dict[int, AddedToken]:
    """The tokens that the files beside tokenizer.json declare, by their ids.

    They are those of tokenizer_config.json or else, from before transformers 4.34, those of added_tokens.json.
    """
    declared = roles.get(_DECLARED)
    if declared is None:
        extra = roles.get(_EXTRA)
        entries = [*(roles.get(role) for role in _STANDARD), *(extra if isinstance(extra, list) else ())]
        special = set(map(_text, entries))
        older = read_optional_object(folder / "added_tokens.json")
        return {
            _id(id, text, folder / "added_tokens.json"): AddedToken(
                text, normalized=text not in special, special=text in special
            )
            for text, id in older.items()
        }
    if not isinstance(declared, Mapping):
        raise _damaged(folder / _CONFIG, f"{_DECLARED} is no object")
    return {_id(id, entry, folder / _CONFIG): _declared(entry, id, folder / _CONFIG) for id, entry in declared.items()}


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[Any, ...]] = {}


class _File(msgspec.Struct):
    added_tokens: list[_Added] = []
    model: msgspec.Raw = msgspec.Raw(b"{}")


class DeclaredTokens:
    """A `SpecialTokens`: read without building a tokenizer. `added` are found in a text as a whole, wherever declared.

    A vocabulary of some hundred thousand entries is parsed only where a token is asked for that no list of added tokens
    has.
    """

    def __init__(self, folder: Path) -> None:
        roles = read_roles(folder)
        self.roles: Mapping[str, str] = named_tokens(roles)
        self._file = _read(folder / "tokenizer.json")
        listed = {token.content: token.id for token in self._file.added_tokens}
        beside = {token.content: id for id, token in declared_ids(folder, roles).items()}
        self.added: Mapping[str, int] = {**beside, **listed}

    def id(self, text: str) -> int | None:
        """The id of a token, if the folder declares it."""
        found = self.added.get(text)
        return self._vocabulary.get(text) if found is None else found

    @cached_property
    def _vocabulary(self) -> Mapping[str, int]:
        try:
            vocab = msgspec.json.decode(self._file.model, type=_Model).vocab
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}  # the build of the tokenizer says what is wrong with it
        return vocab if isinstance(vocab, dict) else {str(entry[0]): i for i, entry in enumerate(vocab) if entry}


def _read(file: Path) -> _File:
    if not file.is_file():
        return _File()
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {error}; the file may be damaged, fetch it again") from error


def mark_special(
    tokenizer: tokenizers.Tokenizer, roles: Mapping[str, Any], declared: Mapping[int, AddedToken], room: int
) -> None:
    """Adds the tokens that only the files beside tokenizer.json have, and makes those special that these call so.

    A token gets no other id than the one it is declared with. A role whose text has none gets one below `room` or none:
    the model has no embedding for more.
    """
    named = set(named_tokens(roles).values())
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    if _DECLARED not in roles:  # then tokenizer.json declares its own
        declared = {**declared, **tokenizer.get_added_tokens_decoder()}
    for id, token in sorted(declared.items(), key=lambda item: item[0]):
        known.setdefault(token.content, token)
        if tokenizer.token_to_id(token.content) is not None or tokenizer.get_vocab_size() == id:
            tokenizer.add_tokens([_with_flags(token, special=token.special or token.content in named)])
    for text, flags in _roles(roles):
        if text not in known and (tokenizer.token_to_id(text) is not None or tokenizer.get_vocab_size() < room):
            tokenizer.add_tokens([AddedToken(text, **{"normalized": False, **flags, "special": True})])


def _with_flags(token: AddedToken, *, special: bool) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in _FLAGS}
    return AddedToken(token.content, **{**flags, "special": special})


def _declared(entry: Any, id: Any, file: Path) -> AddedToken:
    text = _text(entry)
    if not isinstance(entry, Mapping) or text is None:
        raise _damaged(file, f"{_DECLARED} has {entry!r} for {id!r}, not an object with a content")
    flags = {flag: entry[flag] for flag in _FLAGS if flag in entry}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise _damaged(file, f"the flags of {text!r} in {_DECLARED} are not all true or false")
    return AddedToken(text, **flags)


def _id(id: Any, entry: Any, file: Path) -> int:
    text = str(id)
    if isinstance(id, bool) or not isinstance(id, int | str) or not (text.isdecimal() and len(text) < 10):
        raise _damaged(file, f"{id!r}, beside {entry!r}, is no token id")
    return int(text)


def _damaged(file: Path, reason: str) -> ModelError:
    return ModelError(f"{file}: {' '.join(reason.split())[:300]}; the file may be damaged, fetch it again")


def _roles(roles: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, bool]]]:
    """The texts of all roles, and how the text around them is to be taken where a role says it."""
    listed = next(
        (found for key in (_EXTRA, _EXTRA_BEFORE) if (found := roles.get(key)) and isinstance(found, list)), ()
    )
    for entry in [*_by_role(roles).values(), *listed]:
        if text := _text(entry):
            given = entry if isinstance(entry, dict) else {}
            yield text, {flag: given[flag] for flag in _FLAGS if isinstance(given.get(flag), bool)}


def _by_role(roles: Mapping[str, Any]) -> dict[str, Any]:
    extra = roles.get(_EXTRA)
    return {k: v for k, v in roles.items() if k.endswith("_token")} | (extra if isinstance(extra, dict) else {})


def _text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
