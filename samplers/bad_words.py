"""No text that was ruled out: the token that would complete one is banned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext
    from maxserve.interfaces.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class BadWords:
    """Texts, or sequences of token ids, that must not come up in the answer."""

    bad_words: list[str] = field(default_factory=list)
    bad_words_ids: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not _is_list(self.bad_words) or not all(isinstance(w, str) and w.strip() for w in self.bad_words):
            raise ValueError("bad_words must be a list of texts, none of them empty")
        if not _is_list(self.bad_words_ids) or not all(
            _is_list(w) and w and all(map(_is_id, w)) for w in self.bad_words_ids
        ):
            raise ValueError("bad_words_ids must be a list of lists of token ids, none of them empty")

    @staticmethod
    def defaults_from(generation_config: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of these names; `suppress_tokens` are words of one token."""
        given = {name: generation_config[name] for name in ("bad_words", "bad_words_ids") if name in generation_config}
        if isinstance(single := generation_config.get("suppress_tokens"), list):
            given["bad_words_ids"] = [*given.get("bad_words_ids", ()), *([token] for token in single)]
        return given

    def check_vocabulary(self, size: int) -> None:
        for id in (id for word in self.bad_words_ids for id in word):
            if id >= size:
                raise ValueError(f"bad_words_ids: token id {id} is outside the vocabulary of {size} tokens")
        if len({word[0] for word in self.bad_words_ids if len(word) == 1}) >= size:
            raise ValueError("bad_words_ids bans every token there is")

    def tokenized(self, tokenizer: Tokenizer) -> BadWords:
        """The same with ids in place of words: each as it begins a text and as it follows a space."""
        words = [w.lstrip() for w in self.bad_words]
        forms = [tokenizer.encode(form, add_special_tokens=False) for w in words for form in (w, f" {w}")]
        ids = {tuple(form): None for form in (*self.bad_words_ids, *forms) if form}
        return BadWords(bad_words_ids=[list(form) for form in ids])


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class BadWordsTransform:
    def prepare(self, rows: Rows) -> tuple[Tensor, Tensor] | None:
        """Row and token, for each token that would complete a word."""
        banned = [
            (i, token) for i, p in enumerate(rows.params(BadWords)) for token in _completing(p.bad_words_ids, rows, i)
        ]
        if not banned:
            return None
        row, token = zip(*banned, strict=True)
        return rows.tensor(row), rows.tensor(token)

    def apply(self, logits: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        logits[state] = float("-inf")
        return logits


def _completing(words: Sequence[Sequence[int]], rows: Rows, row: int) -> Iterator[int]:
    """A word may begin in the prompt: it is not completed in the answer either."""
    longest = max(map(len, words), default=0)
    before = rows.tokens[row][1 - longest :].tolist() if longest > 1 else []
    for word in words:
        begun = len(word) - 1
        if begun <= len(before) and before[len(before) - begun :] == list(word[:-1]):
            yield word[-1]


def build(context: SamplerContext) -> BadWordsTransform:
    return BadWordsTransform()
