"""What requests ask for with `truncate_prompt_tokens`."""

from __future__ import annotations

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.tokenizer import Truncation, TruncationSide

FIELD = "truncate_prompt_tokens"


def truncation_of(
    wanted: int | None, longest: int, side: TruncationSide, *, room: int | None = None
) -> Truncation | None:
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
