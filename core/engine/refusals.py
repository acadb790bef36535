"""Which requests can an engine never serve?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.errors import RequestError

if TYPE_CHECKING:
    from maxserve.core.nouns import Limits, Request


def refuse_unservable(request: Request, limits: Limits, vocab_size: int) -> None:
    """RequestError for what no waiting would help."""
    length = len(request.prompt)
    if not length:
        raise RequestError("the prompt holds no token; give at least one", param="prompt")
    if length >= limits.max_length:
        raise RequestError(
            f"the prompt has {length} tokens, which leaves no room within the model's length of "
            f"{limits.max_length}; shorten it",
            param="prompt",
            code="context_length_exceeded",
        )
    if request.params.max_tokens is not None and request.params.max_tokens < 1:
        raise RequestError("max_tokens must be at least 1", param="max_tokens")
    if not isinstance(request.params.seed, int | None):
        raise RequestError(f"seed must be a whole number, got {request.params.seed!r}", param="seed")
    _check_ids(request.prompt, vocab_size)


def _check_ids(prompt: tuple[int, ...], vocab_size: int) -> None:
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        bad = next(t for t in prompt if not 0 <= t < vocab_size)
        raise RequestError(f"token id {bad} is outside the vocabulary of {vocab_size} tokens", param="prompt")
