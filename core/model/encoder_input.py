"""How do the texts of a request become what an encoder takes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from maxserve.core.encoders import VectorInfo
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ModelInfo
from maxserve.core.model.tokenizer import Tokenizer
from maxserve.core.nouns import EncodeRequest

TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Input:
    """The ids of one text, and where its second part begins (0: nowhere)."""

    ids: tuple[int, ...]
    second: int = 0


class EncoderInputs:
    """Makes inputs for one model. Safe from several threads at once. RequestError names the entry at fault."""

    def __init__(self, tokenizer: Tokenizer, info: ModelInfo) -> None:
        assert info.vectors is not None, "the model encodes no texts"
        self._tokenizer = tokenizer
        self._vectors: VectorInfo = info.vectors
        self._info = info
        self._prompt_length = lru_cache(maxsize=64)(self._count_prompt)

    def prompt(self, name: str | None) -> str:
        """The prompt of that name, or the one that is put before texts when nobody names one."""
        prompts, default = self._vectors.prompts, self._vectors.default_prompt
        if name is None:
            return prompts[default] if default is not None else ""
        if name not in prompts:
            there = ", ".join(sorted(prompts)) or "none"
            raise RequestError(f"the model has no prompt {name[:100]!r}; it has {there}", param="prompt_name")
        return prompts[name]

    def skipped(self, prompt: str) -> int:
        """How many of a text's first tokens are those of the prompt, where the model does not pool them."""
        return 0 if self._vectors.include_prompt or not prompt else self._prompt_length(prompt)

    def text(self, text: str, place: str, *, prompt: str = "", cut: int | None = None) -> Input:
        """One text, cut to `cut` tokens if it is given."""
        return self._encoded(prompt + text, None, place, cut)

    def pair(self, first: str, second: str, place: str, *, cut: int | None = None) -> Input:
        """Two texts that are scored together."""
        return self._encoded(first, second, place, cut)

    def ids(self, ids: Sequence[int], place: str, *, cut: int | None = None) -> Input:
        """Token ids, as they are."""
        bad = next((id for id in ids if not 0 <= id < self._info.vocab_size), None)
        if bad is not None:
            message = f"{place}: token id {bad} is outside the vocabulary of {self._info.vocab_size} tokens"
            raise RequestError(message, param=place)
        return self._checked(Input(tuple(ids if cut is None else ids[:cut])), place)

    def _encoded(self, text: str, second: str | None, place: str, cut: int | None) -> Input:
        if self._vectors.lower:
            text, second = text.lower(), second.lower() if second is not None else None
        if cut is None:
            self._refuse_hopeless(len(text) + len(second or ""), text + (second or ""), place)
        ids, start = self._tokenizer.encode_input(text, second, most=cut)
        if cut is not None and len(ids) > cut:
            message = (
                f"truncate_prompt_tokens is {cut}, less than the special tokens of a text; {len(ids)} is the least"
            )
            raise RequestError(message, param="truncate_prompt_tokens")
        return self._checked(Input(tuple(ids), start), place)

    def _refuse_hopeless(self, characters: int, text: str, place: str) -> None:
        """Megabytes that no model holds are not looked at, token by token."""
        tokens = self._tokenizer.fewest_tokens(text)
        if tokens > self._info.max_length:
            raise self._too_long(f"{characters} characters, which is at least {tokens} tokens", place)

    def _checked(self, made: Input, place: str) -> Input:
        if not made.ids:
            raise RequestError(f"{place}: the text has no tokens", param=place)
        if len(made.ids) > self._info.max_length:
            raise self._too_long(f"{len(made.ids)} tokens", place)
        return made

    def _too_long(self, size: str, place: str) -> RequestError:
        message = (
            f"{place}: the text has {size}, and this model takes {self._info.max_length}; shorten it, or let it be cut "
            "with truncate_prompt_tokens"
        )
        return RequestError(message, param=place, code=TOO_LONG)

    def cut(self, wanted: int | None) -> int | None:
        """To how many tokens texts are cut, of what a request says: -1 is as many as the model takes."""
        if wanted is None:
            return None
        if wanted == -1:
            return self._info.max_length
        if not 1 <= wanted <= self._info.max_length:
            message = f"truncate_prompt_tokens is {wanted}; -1, or 1 to {self._info.max_length}, is expected"
            raise RequestError(message, param="truncate_prompt_tokens")
        return wanted

    def _count_prompt(self, prompt: str) -> int:
        """The tokens of a prompt alone, less the special one at its end."""
        ids = self._tokenizer.encode_input(prompt)[0]
        return len(ids) - (bool(ids) and ids[-1] in self._tokenizer.special_ids)


def encode_request(id: str, inputs: Sequence[Input], skip: int = 0) -> EncodeRequest:
    """The request for `inputs`."""
    seconds = tuple(each.second for each in inputs)
    texts = tuple(each.ids for each in inputs)
    return EncodeRequest(id=id, texts=texts, seconds=seconds if any(seconds) else (), skip=skip)
