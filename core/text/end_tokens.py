"""The tokens that end an answer, from all files of a checkpoint that name one.

These are the eos tokens of config.json, of its text part, of generation_config.json and of the tokenizer, and the token
by which the chat template itself ends an assistant's message. Whether an end is hidden, held back (by a sampler),
ignored (`ignore_eos`) or known to a grammar is decided with this one set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.errors import ModelError

if TYPE_CHECKING:
    from maxserve.core.interfaces.chat_template import ChatTemplate
    from maxserve.core.interfaces.tokenizer import SpecialTokens


def end_tokens(
    special: SpecialTokens,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    *,
    vocab_size: int,
    template: ChatTemplate | None = None,
) -> tuple[int, ...]:
    """The ids, those of the files that are about generating first; none that the model's logits do not have.

    `special` are the model's special tokens, `template` is its chat template. ModelError for what is no id.
    """
    ids = [*eos_token_ids(generation_config), *eos_token_ids(config), *eos_token_ids(_text_part(config))]
    texts = [special.roles["eos_token"]] if "eos_token" in special.roles else []
    if template is not None:
        texts += template.end_tokens(special.roles, special.added)
    ids += [id for text in texts if (id := special.id(text)) is not None]
    return tuple(id for id in dict.fromkeys(ids) if 0 <= id < vocab_size)


def eos_token_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that one config names: a number, a list or nothing."""
    found = config.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if any(isinstance(id, bool) or not isinstance(id, int) for id in ids):
        raise ModelError(f"eos_token_id is {found!r} in the model's configuration; a token id or a list is expected")
    return tuple(ids)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else {}
