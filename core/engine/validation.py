"""Validation of requests: what an engine can never serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import MOST_LOGPROBS

if TYPE_CHECKING:
    from maxserve.core.engine.parts import Parts
    from maxserve.core.interfaces.request import Request, SamplingParams


def validate_request(request: Request, parts: Parts) -> None:
    """RequestError for what no waiting would help."""
    limits = parts.limits
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
    if request.priority and not parts.priorities:
        raise RequestError(
            f"priority means nothing with --scheduler {parts.policy_name}, which does not look at it; leave it out, or "
            "start the server with another scheduler",
            param="priority",
            code="unsupported_parameter",
        )
    if request.adapter and request.adapter not in parts.adapters:
        known = ", ".join(parts.adapters) or "none"
        raise RequestError(f"there is no adapter {request.adapter!r}; there are: {known}", param="model")
    _check_images(request, parts)
    _check_logprobs(request.params, parts)
    _check_ids(request.prompt, parts.info.vocab_size)


def _check_images(request: Request, parts: Parts) -> None:
    """Whoever places images wrongly would have features written where they do not belong."""
    if request.images and not parts.sees:
        raise RequestError(f"the model {parts.info.name} takes text only, no images", param="prompt")
    end = 0
    for image in request.images:
        if not end <= image.start < image.end <= len(request.prompt):
            raise RequestError("the images of a request must lie in its prompt one after another", param="prompt")
        if image.mrope_positions is not None and image.mrope_positions.shape[-1] != image.length:
            raise RequestError(
                f"an image of {image.length} tokens has {image.mrope_positions.shape} positions", param="prompt"
            )
        end = image.end


def _check_logprobs(params: SamplingParams, parts: Parts) -> None:
    for field, wanted in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if wanted is not None and not 0 <= wanted <= MOST_LOGPROBS:
            raise RequestError(f"{field} must be between 0 and {MOST_LOGPROBS}, got {wanted}", param=field)
    if params.prompt_logprobs is not None and not parts.variable_logits:
        raise RequestError(
            "prompt_logprobs cannot be used: this server was started with --no-enable-variable-logits; leave it out, "
            "or start the server with --enable-variable-logits",
            param="prompt_logprobs",
            code="unsupported_parameter",
        )


def _check_ids(prompt: tuple[int, ...], vocab_size: int) -> None:
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        bad = next(t for t in prompt if not 0 <= t < vocab_size)
        raise RequestError(f"token id {bad} is outside the vocabulary of {vocab_size} tokens", param="prompt")
