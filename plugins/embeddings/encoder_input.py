"""The texts of a request as an encoder takes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from maxserve.interfaces.engine import ModelInfo, VectorInfo
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import EncodeRequest
from maxserve.interfaces.tokenizer import Tokenizer, Truncation, TruncationSide
from maxserve.loading import validate_ids
from maxserve.plugins.api.common.truncation import FIELD, truncation_of

TOO_LONG = "context_length_exceeded"


class Input(msgspec.Struct, frozen=True):
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

    @property
    def prompt_names(self) -> list[str]:
        """The prompts that the model has."""
        return sorted(self._vectors.prompts)

    def prompt(self, name: str | None) -> str:
        """The prompt of that name, or the one that is put before texts when none is named."""
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

    def text(
        self,
        text: str,
        param: str,
        *,
        prompt: str = "",
        truncation: Truncation | None = None,
        add_special_tokens: bool = True,
    ) -> Input:
        """One text, cut where `truncation` says so."""
        return self._encoded(prompt + text, None, param, truncation, add_special_tokens)

    def pair(self, first: str, second: str, param: str, *, truncation: Truncation | None = None) -> Input:
        """Two texts that are scored together."""
        return self._encoded(first, second, param, truncation)

    def cut_text(self, text: str, most: int | None) -> str:
        """The text up to its token number `most`; None: all of it."""
        return text if most is None else self._tokenizer.cut_text(text.lower() if self._vectors.lower else text, most)

    def ids(self, ids: Sequence[int], param: str, *, truncation: Truncation | None = None) -> Input:
        """Token ids, as they are."""
        validate_ids(ids, self._info, param)
        return self._checked(Input(tuple(ids if truncation is None else truncation.ids(ids))), param)

    def _encoded(
        self, text: str, second: str | None, param: str, truncation: Truncation | None, add_special_tokens: bool = True
    ) -> Input:
        if self._vectors.lower:
            text, second = text.lower(), second.lower() if second is not None else None
        if truncation is None:
            self._validate_feasible(len(text) + len(second or ""), text + (second or ""), param)
        ids, start = self._tokenizer.encode_input(
            text, second, truncation=truncation, add_special_tokens=add_special_tokens
        )
        if truncation is not None and len(ids) > truncation.most:
            message = f"{FIELD} is {truncation.most}, less than the special tokens of a text; {len(ids)} is the least"
            raise RequestError(message, param=FIELD)
        return self._checked(Input(tuple(ids), start), param)

    def _validate_feasible(self, characters: int, text: str, param: str) -> None:
        """Megabytes that no model holds are not looked at, token by token."""
        tokens = self._tokenizer.fewest_tokens(text)
        if tokens > self._info.max_length:
            raise _too_long(f"{characters} characters, which is at least {tokens} tokens", self._info, param)

    def _checked(self, made: Input, param: str) -> Input:
        validate_text(made.ids, self._info, param)
        return made

    def truncation(self, wanted: int | None, side: TruncationSide | None = None) -> Truncation | None:
        """How texts are cut, of what a request says: -1 is to as many tokens as the model takes."""
        return truncation_of(wanted, self._info.max_length, side or "right")

    def _count_prompt(self, prompt: str) -> int:
        """The tokens of a prompt alone, less the special one at its end."""
        ids = self._tokenizer.encode_input(prompt)[0]
        return len(ids) - (bool(ids) and ids[-1] in self._tokenizer.special_ids)


def validate_text(ids: Sequence[int], info: ModelInfo, param: str) -> None:
    """RequestError for a text of a length that the model cannot encode."""
    if not ids:
        raise RequestError(f"{param}: the text has no tokens", param=param)
    if len(ids) > info.max_length:
        raise _too_long(f"{len(ids)} tokens", info, param)


def _too_long(size: str, info: ModelInfo, param: str) -> RequestError:
    message = (
        f"{param}: the text has {size}, and this model takes {info.max_length}; reduce its length, or let it be cut "
        "with truncate_prompt_tokens"
    )
    return RequestError(message, param=param, code=TOO_LONG)


def encode_request(
    id: str, inputs: Sequence[Input], prompt_prefix: int = 0, *, activation: bool = True, adapter: str = ""
) -> EncodeRequest:
    """The request for `inputs`."""
    pair_starts = tuple(each.second for each in inputs)
    texts = tuple(each.ids for each in inputs)
    return EncodeRequest(
        id=id,
        texts=texts,
        pair_starts=pair_starts if any(pair_starts) else (),
        prompt_prefix=prompt_prefix,
        activation=activation,
        adapter=adapter,
    )
