"""Which tokens of a tokenizer are special, and what are they called?

tokenizer.json knows the tokens; their roles (eos_token, …) are told by the files beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from maxserve.core.model.json_files import read_optional_object

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def read_roles(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, completed by special_tokens_map.json."""
    roles = read_optional_object(folder / "special_tokens_map.json")
    return roles | {k: v for k, v in read_optional_object(folder / "tokenizer_config.json").items() if v is not None}


def named_tokens(roles: Mapping[str, Any]) -> dict[str, str]:
    """Token text by role, for chat templates: {"eos_token": "</s>", …}."""
    named = {role: _text(value) for role, value in roles.items() if role.endswith("_token")}
    extra = roles.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= {role: _text(value) for role, value in extra.items()}
    return {role: text for role, text in named.items() if text is not None}


def mark_special(tokenizer: tokenizers.Tokenizer, roles: Mapping[str, Any]) -> None:
    """Adds the tokens that only tokenizer_config.json lists and makes vocabulary entries with a role special.

    What tokenizer.json itself says of a token stays as it is.
    """
    _add_declared(tokenizer, roles.get("added_tokens_decoder"))
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    # A role without an id in the vocabulary would get one that the model has no embedding for: left out.
    texts = [t for t in _special_texts(roles) if t not in known and tokenizer.token_to_id(t) is not None]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in texts])


def _add_declared(tokenizer: tokenizers.Tokenizer, declared: Any) -> None:
    if not isinstance(declared, dict):
        return
    for token_id, entry in sorted((int(i), entry) for i, entry in declared.items()):
        # Ids are handed out in order, so only a token that continues the vocabulary gets the id it declares.
        if tokenizer.token_to_id(entry["content"]) is None and tokenizer.get_vocab_size() == token_id:
            tokenizer.add_tokens([AddedToken(entry["content"], **{k: entry[k] for k in _FLAGS if k in entry})])


def _special_texts(roles: Mapping[str, Any]) -> Iterable[str]:
    lists = (value for key in _LISTS if isinstance(value := roles.get(key), list))
    texts = [*named_tokens(roles).values(), *(_text(entry) for entries in lists for entry in entries)]
    return dict.fromkeys(text for text in texts if text)


def _text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
