"""Validation of requests: what an engine can never serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import MOST_LOGPROBS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.interfaces.request import Request, SamplingParams


def validate_request(request: Request, info: ModelInfo, *, prompt_field: str = "prompt") -> None:
    """RequestError for what no waiting would help. `prompt_field` is what the prompt is called in the body.

    The API process calls it where requests enter, and `validate_ids` for ids that a client gave. The engine calls both
    as assertions, since plugins may send requests of their own.
    """
    length, params = len(request.prompt), request.params
    if not length:
        raise RequestError(f"{prompt_field}: the prompt has no tokens; give at least one", param=prompt_field)
    if length >= info.max_length:
        raise RequestError(
            f"the prompt has {length} tokens, and this model's context of {info.max_length} leaves no room for more",
            param=prompt_field,
            code="context_length_exceeded",
        )
    if params.max_tokens is not None and params.max_tokens < 1:
        raise RequestError("max_tokens must be at least 1", param="max_tokens")
    if not isinstance(params.seed, int | None):
        raise RequestError(f"seed must be a whole number, got {params.seed!r}", param="seed")
    _validate_supported(request, info)
    _validate_images(request, info, prompt_field)
    _validate_logprobs(params)


def validate_ids(ids: Sequence[int], info: ModelInfo, param: str) -> None:
    """RequestError for a token that the model does not have."""
    if ids and (min(ids) < 0 or max(ids) >= info.vocab_size):
        bad = next(id for id in ids if not 0 <= id < info.vocab_size)
        message = f"{param}: token id {bad} is outside the vocabulary of {info.vocab_size} tokens"
        raise RequestError(message, param=param)


def _validate_supported(request: Request, info: ModelInfo) -> None:
    asked = {"priority": request.priority != 0, "prompt_logprobs": request.params.prompt_logprobs is not None}
    asked["kv_transfer_params"] = bool(request.transfer)
    for field, reason in info.unsupported.items():
        if asked[field]:
            raise RequestError(f"{field} {reason}", param=field, code="unsupported_parameter")


def _validate_images(request: Request, info: ModelInfo, prompt_field: str) -> None:
    """Images in wrong positions would have features written where they do not belong."""
    if request.images and not info.images:
        raise RequestError(f"the model {info.name} takes text only, no images", param=prompt_field)
    end = 0
    for image in request.images:
        if not end <= image.start < image.end <= len(request.prompt):
            raise RequestError("the images of a request must lie in its prompt one after another", param=prompt_field)
        if image.mrope_positions is not None and image.mrope_positions.shape[-1] != image.length:
            raise RequestError(
                f"an image of {image.length} tokens has {image.mrope_positions.shape} positions", param=prompt_field
            )
        end = image.end


def _validate_logprobs(params: SamplingParams) -> None:
    for field, wanted in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if wanted is not None and not 0 <= wanted <= MOST_LOGPROBS:
            raise RequestError(f"{field} must be between 0 and {MOST_LOGPROBS}, got {wanted}", param=field)
