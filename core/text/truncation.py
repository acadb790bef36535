"""Which tokens of a prompt or a text that is too long are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from maxserve.core.interfaces.errors import RequestError

T = TypeVar("T")

Side = Literal["left", "right"]

FIELD = "truncate_prompt_tokens"


@dataclass(frozen=True, slots=True)
class Truncation:
    """Texts are cut to `most` tokens, special ones included, at the end or, `side` "left", at the start.

    `param` is the field of the request that asked for it.
    """

    most: int
    side: Side = "right"
    param: str = FIELD

    def ids(self, ids: Sequence[T]) -> Sequence[T]:
        """What is kept of token ids."""
        if len(ids) <= self.most:
            return ids
        return ids[: self.most] if self.side == "right" else ids[len(ids) - self.most :]


def truncation_of(wanted: int | None, longest: int, side: Side, *, room: int | None = None) -> Truncation | None:
    """What a request's `truncate_prompt_tokens` asks for; RequestError when it is more than `longest`.

    -1 stands for as many as there is `room` for: None is `longest`.
    """
    if wanted is None:
        return None
    if wanted == -1:
        return Truncation(max(1, longest if room is None else room), side)
    if not 1 <= wanted <= longest:
        message = f"{FIELD} is {wanted}; -1, or 1 to {longest}, is expected: request a smaller truncation size"
        raise RequestError(message, param=FIELD)
    return Truncation(wanted, side)
