"""Draw from a few tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows, SamplerContext

Allowed = tuple["Tensor", "Tensor", "Tensor"]


@dataclass(frozen=True, slots=True)
class AllowedTokenIds:
    """The only tokens that may be drawn; left out, all may."""

    allowed_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        ids = self.allowed_token_ids
        if ids is None:
            return
        if isinstance(ids, str) or not isinstance(ids, Sequence) or not ids:
            raise ValueError(f"allowed_token_ids must be a list with at least one token id, got {ids!r}")
        bad = [id for id in ids if isinstance(id, bool) or not isinstance(id, int) or id < 0]
        if bad:
            raise ValueError(f"allowed_token_ids: {bad[0]!r} is no token id; they are whole numbers from 0")

    def check_vocabulary(self, size: int) -> None:
        for id in self.allowed_token_ids or ():
            if id >= size:
                raise ValueError(f"allowed_token_ids: token id {id} is outside the vocabulary of {size} tokens")


class AllowedTokenIdsTransform:
    steady = True

    def prepare(self, rows: Rows) -> Allowed | None:
        """The rows that asked, and row and token of all that is allowed them."""
        allowed = [
            (i, id)
            for i, p in enumerate(rows.params(AllowedTokenIds))
            for id in dict.fromkeys(p.allowed_token_ids or ())
        ]
        if not allowed:
            return None
        row, id = zip(*allowed, strict=True)
        return rows.tensor(list(dict.fromkeys(row))), rows.tensor(row), rows.tensor(id)

    def apply(self, logits: Tensor, state: Allowed) -> Tensor:
        asked, row, id = state
        kept = logits[row, id]
        logits[asked] = float("-inf")
        return logits.index_put_((row, id), kept)


def build(context: SamplerContext) -> AllowedTokenIdsTransform:
    return AllowedTokenIdsTransform()
