"""A tokenizer whose work a backend does: limits, affixes and the bytes of tokens, whatever library encodes.

Public for other plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from maxserve.interfaces.tokenizer import Truncation, check_unicode

if TYPE_CHECKING:
    import tokenizers

_CUT_MARGIN = 64  # tokens that are encoded beyond those that remain of a text that is cut
_LONGEST_AT_LEAST = 64  # characters of the longest token, where a vocabulary has only short ones


class Spelling(Protocol):
    """The bytes of single tokens. `joined`: a text is exactly its tokens' bytes, read as UTF-8."""

    joined: bool

    def is_byte(self, token: str) -> bool:
        """Whether `token` stands for a single byte that only makes text together with its neighbours."""
        ...

    def of(self, token: str) -> bytes | None:
        """The bytes of `token` inside a text; None when they depend on its neighbours in a way not known here."""
        ...


class Backend(Protocol):
    """What does the work, from several threads at once."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def spelling(self) -> Spelling | None:
        """None when the bytes of single tokens are not known."""
        ...

    @property
    def vocabulary(self) -> Iterable[str]: ...
    @property
    def inner(self) -> tokenizers.Tokenizer | None: ...

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...
    def encode_input(
        self, text: str, second: str | None, truncation: Truncation | None, add_special_tokens: bool
    ) -> tuple[list[int], int]: ...
    def cut_text(self, text: str, most: int) -> str: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str: ...
    def token(self, token_id: int) -> str | None: ...
    def token_id(self, token: str) -> int | None: ...


class BackedTokenizer:
    """A `Tokenizer` whose work a backend does."""

    def __init__(self, backend: Backend, special_tokens: Mapping[str, str]) -> None:
        self._backend = backend
        self._bytes: dict[int, bytes | None] = {}  # of tokens that were asked for
        self.special_tokens = special_tokens  # by role: bos_token, eos_token, …
        self.special_ids = backend.special_ids
        self.vocab_size = backend.vocab_size
        self.eos_token_id = self._id_of_role("eos_token")
        self.bos_token_id = self._id_of_role("bos_token")

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer | None:
        """The `tokenizers.Tokenizer` that does the work, to be left as it is; None where another library does it."""
        return self._backend.inner

    @property
    def joins_bytes(self) -> bool:
        """Whether a text is its tokens' bytes one after another, read as UTF-8."""
        spelling = self._backend.spelling
        return spelling is not None and spelling.joined

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of `text`; special tokens spelled out in it become their ids. RequestError for lone surrogates."""
        check_unicode(text)
        return self._backend.encode(text, add_special_tokens)

    @property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before a text, and those after it."""
        return self._affixes

    @cached_property
    def _affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        plain = self._backend.encode("a", add_special_tokens=False)
        whole = self._backend.encode("a", add_special_tokens=True)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start]), tuple(whole[start + len(plain) :])
        return (), ()

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
        for each in (text, second or ""):
            check_unicode(each)
        if truncation is not None:
            text = self._shortened(text, truncation)
            second = None if second is None else self._shortened(second, truncation)
        return self._backend.encode_input(text, second, truncation, add_special_tokens)

    def cut_text(self, text: str, most: int) -> str:
        """The text up to the end of its token number `most`, special tokens not counted."""
        check_unicode(text)
        return self._backend.cut_text(self._shortened(text, Truncation(most)), most)

    def _shortened(self, text: str, truncation: Truncation) -> str:
        """The end of `text` that can matter, so that megabytes are not encoded for the sake of a few tokens.

        No token has more characters than the longest entry of the vocabulary.
        """
        room = (truncation.most + _CUT_MARGIN) * self._longest
        if len(text) <= room:
            return text
        return text[:room] if truncation.side == "right" else text[-room:]

    def fewest_tokens(self, text: str) -> int:
        """How many tokens `text` has at least, known from its length alone.

        For texts that no model holds: encoding megabytes takes minutes and gigabytes. What a tokenizer drops or
        takes for one unknown word is counted by its length all the same.
        """
        return len(text) // self._longest

    @cached_property
    def _longest(self) -> int:
        return max(_LONGEST_AT_LEAST, *map(len, self._backend.vocabulary))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids outside the vocabulary are left out, broken UTF-8 shows as U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens)

    def token(self, token_id: int) -> str:
        """The vocabulary entry of an id, as the vocabulary spells it; "" for an id outside of it."""
        return self._backend.token(token_id) or ""

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, if there is one."""
        return self._backend.token_id(token)

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes a token adds to a text; None when they depend on its neighbours."""
        try:
            return self._bytes[token_id]
        except KeyError:
            spelling, token = self._backend.spelling, self.token(token_id)
        found = None if spelling is None else spelling.of(token)
        if token:  # ids outside the vocabulary are without number
            self._bytes[token_id] = found
        return found

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a single byte that only makes text together with its neighbours."""
        spelling = self._backend.spelling
        return spelling is not None and spelling.is_byte(self.token(token_id))

    def _id_of_role(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._backend.token_id(token)
