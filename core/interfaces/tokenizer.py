"""Tokenizers: texts as token ids, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import RequestError

if TYPE_CHECKING:
    import tokenizers


__all__ = [
    "SpecialTokens",
    "Tokenizer",
    "TokenizerContext",
    "TokenizerFiles",
    "Truncation",
    "TruncationSide",
    "check_unicode",
]


TruncationSide: TypeAlias = Literal["left", "right"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerContext(Context):
    """What a tokenizer is read from: `path`, the folder of the model. `trust_remote_code`: its own Python may run."""

    path: str
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Truncation:
    """Texts are cut to `most` tokens, special ones included, at the end or, `side` "left", at the start."""

    most: int
    side: TruncationSide = "right"

    def ids(self, ids: Sequence[T]) -> Sequence[T]:
        """What remains of token ids."""
        if len(ids) <= self.most:
            return ids
        return ids[: self.most] if self.side == "right" else ids[len(ids) - self.most :]


class SpecialTokens(Protocol):
    """The special tokens of a model: `roles` are texts by role ("eos_token"), `added` are found in texts as a whole."""

    @property
    def roles(self) -> Mapping[str, str]: ...
    @property
    def added(self) -> Collection[str]: ...
    def id(self, text: str) -> int | None:
        """The id of a token, if the model has it."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back. Every method may be called from several threads at once.

    `special_tokens` are texts by role: bos_token, eos_token, …
    """

    special_tokens: Mapping[str, str]
    special_ids: frozenset[int]
    vocab_size: int
    eos_token_id: int | None
    bos_token_id: int | None

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer | None:
        """The `tokenizers.Tokenizer` that does the work, to be left as it is; None where another library does it."""
        ...

    @property
    def joins_bytes(self) -> bool:
        """Whether a text is its tokens' bytes one after another, read as UTF-8."""
        ...

    @property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before a text, and those after it."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of `text`; special tokens spelled out in it become their ids. RequestError for lone surrogates."""
        ...

    def encode_input(
        self,
        text: str,
        second: str | None = None,
        *,
        truncation: Truncation | None = None,
        add_special_tokens: bool = True,
    ) -> tuple[list[int], int]:
        """The ids of a text, or of a pair, for a model that encodes it; with its special tokens.

        Also says where the second part begins, if the model distinguishes parts, else 0. With `truncation`, what is too
        much is cut off, in a pair off the longer part first, so that all special tokens stay.
        """
        ...

    def cut_text(self, text: str, most: int) -> str:
        """The text up to the end of its token number `most`, special tokens not counted."""
        ...

    def fewest_tokens(self, text: str) -> int:
        """How many tokens `text` has at least, known from its length alone."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids outside the vocabulary are left out, broken UTF-8 shows as U+FFFD."""
        ...

    def token(self, token_id: int) -> str:
        """The vocabulary entry of an id, as the vocabulary spells it; "" for an id outside of it."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, if there is one."""
        ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes a token adds to a text; None when they depend on its neighbours."""
        ...

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a single byte that only makes text together with its neighbours."""
        ...


class TokenizerFiles(Protocol):
    """The files of a tokenizer. ModelError, in one line, where they cannot be read."""

    def special_tokens(self) -> SpecialTokens:
        """Read without building the tokenizer: workers need no more until a request wants a grammar."""
        ...

    def load(self) -> Tokenizer: ...


def check_unicode(text: str) -> None:
    """RequestError for lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the text is not valid Unicode: {error.reason} at character {error.start}") from error
