"""No end before a number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext


@dataclass(frozen=True, slots=True)
class MinTokens:
    """The answer has at least this many tokens before an end token or a stop string may end it."""

    min_tokens: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.min_tokens, bool) or not isinstance(self.min_tokens, int) or self.min_tokens < 0:
            raise ValueError(f"min_tokens must be a whole number from 0, got {self.min_tokens}")

    @staticmethod
    def defaults_from(generation_config: Mapping[str, Any]) -> dict[str, Any]:
        """`min_tokens`, or what transformers calls it."""
        found = [generation_config[name] for name in ("min_tokens", "min_new_tokens") if name in generation_config]
        return {"min_tokens": found[0]} if found else {}

    @property
    def min_stop_tokens(self) -> int:
        return self.min_tokens


class MinTokensTransform:
    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def prepare(self, rows: Rows) -> tuple[Tensor, Tensor] | None:
        """Row and end token, for rows that may not end yet."""
        banned = [
            (i, end)
            for i, wish in enumerate(rows.params(MinTokens))
            if wish.min_tokens and len(rows.tokens[i]) - rows.prompt_lengths[i] < wish.min_tokens
            for end in rows.ends[i]
            if 0 <= end < self._vocab_size
        ]
        if not banned:
            return None
        row, end = zip(*banned, strict=True)
        return rows.tensor(row), rows.tensor(end)

    def apply(self, logits: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        logits[state] = float("-inf")
        return logits


def build(context: SamplerContext) -> MinTokensTransform:
    return MinTokensTransform(context.vocab_size)
