"""Which engine requests does one HTTP request ask for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex

import msgspec

from maxserve.interfaces.engine import ModelInfo
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import Constraint, Image, Request, SamplingParams
from maxserve.interfaces.served_names import ServedName
from maxserve.interfaces.tokenizer import Tokenizer, Truncation
from maxserve.loading import validate_request
from maxserve.plugins.api.common.bodies import TextBody
from maxserve.plugins.api.common.sampler_fields import ResolvedParams

MOST_REQUESTS = 4096
_TOO_LONG = "context_length_exceeded"


class RequestPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`requests[i * n + j]` is the j-th answer to prompt i; that is also its choice's index.

    `model` is the name under which they are answered.
    `prompt_only`: the prompt was asked about, and the one token that the engine draws after it is dropped.
    """

    model: str
    requests: tuple[Request, ...]
    stops: tuple[str, ...]
    n: int
    include_stop: bool
    skip_special_tokens: bool
    prompt_only: bool
    prompt_tokens: int
    max_tokens: int | None


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds a job: the model, and how many requests the server takes at once (None: any number).

    `served` is the name that the client asks for.
    `prompt_field` is what the prompt is called in the body; `default_limit` the tokens of an answer that sets no limit.
    """

    info: ModelInfo
    served: ServedName
    capacity: int | None
    prompt_field: str
    default_limit: int | None = None


def plan_requests(
    body: TextBody,
    prompts: Sequence[Sequence[int]],
    sampling: ResolvedParams,
    limits: RequestLimits,
    *,
    user: str,
    constraint: Constraint | None = None,
    images: tuple[Image, ...] = (),
) -> RequestPlan:
    """The requests, with the `images` of a single prompt.

    RequestError when prompts, or the answers asked for, are more than model or server can hold.
    """
    n = body.n or 1
    if body.transfer and len(prompts) > 1:
        raise RequestError("kv_transfer_params and target_endpoint go with one prompt", param="kv_transfer_params")
    _check_count(len(prompts) * n, limits.capacity, "n" if n > 1 else limits.prompt_field)
    requests: list[Request] = []
    for prompt in prompts:
        limit = _limit(body, len(prompt), limits)
        samples = (
            _request(body, tuple(prompt), sampling, limit, sample, user, constraint, limits.served.adapter)
            for sample in range(n)
        )
        requests += [replace(request, images=images) for request in samples] if images else samples
        validate_request(requests[-1], limits.info, prompt_field=limits.prompt_field)
    limit = body.token_limit[1]
    _check_minimum(sampling, *body.token_limit)
    return RequestPlan(
        model=limits.served.name,
        requests=tuple(requests),
        stops=body.stops,
        n=n,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        prompt_only=limit == 0,
        prompt_tokens=sum(map(len, prompts)),
        max_tokens=limit,
    )


def _check_minimum(sampling: ResolvedParams, field: str, limit: int | None) -> None:
    least, least_field = sampling.min_stop_tokens, sampling.min_stop_field
    if limit is not None and least > limit:
        raise RequestError(f"{least_field} is {least}, which is more than the {limit} of {field}", param=least_field)


def _check_count(count: int, capacity: int | None, param: str) -> None:
    """What could never be admitted is refused for good: trying again later would not help."""
    if count > MOST_REQUESTS:
        raise RequestError(f"prompts times n must not exceed {MOST_REQUESTS}, got {count}", param=param)
    if capacity is not None and count > capacity:
        message = (
            f"this request asks for {count} answers at once (prompts times n), and the server takes {capacity} "
            "(--max-batch-size and --max-queue-size together); ask for fewer"
        )
        raise RequestError(message, param=param)


def encoded(
    text: str,
    tokenizer: Tokenizer,
    info: ModelInfo,
    *,
    add_special_tokens: bool,
    prompt_field: str,
    truncation: Truncation | None = None,
) -> list[int]:
    """The tokens of a prompt; RequestError, before they are looked for, when they are certainly too many."""
    if truncation is not None:
        ids, _ = tokenizer.encode_input(text, truncation=truncation, add_special_tokens=add_special_tokens)
        return list(truncation.ids(ids))
    check_length(text, tokenizer, info, prompt_field=prompt_field)
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def check_length(text: str, tokenizer: Tokenizer, info: ModelInfo, *, prompt_field: str) -> None:
    """RequestError for a text that certainly has more tokens than the model's context."""
    tokens = tokenizer.fewest_tokens(text)
    if tokens > info.max_length:
        message = (
            f"the prompt has {len(text)} characters, which is at least {tokens} tokens and more than "
            f"this model's context of {info.max_length}"
        )
        raise RequestError(message, param=prompt_field, code=_TOO_LONG)


def _request(
    body: TextBody,
    prompt: tuple[int, ...],
    sampling: ResolvedParams,
    limit: int | None,
    sample: int,
    user: str,
    constraint: Constraint | None,
    adapter: str,
) -> Request:
    params = SamplingParams(
        max_tokens=limit,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        seed=_seed(body.seed, sample),
        logprobs=body.alternatives,
        prompt_logprobs=body.prompt_alternatives,
        fields=sampling.fields,
        constraint=constraint,
        min_stop_tokens=sampling.min_stop_tokens,
    )
    # The client may choose the request's id and use it twice; the engine's ids are ours.
    return Request(
        id=token_hex(16),
        prompt=prompt,
        params=params,
        salt=body.cache_salt or "",
        user=user,
        adapter=adapter,
        priority=body.priority or 0,
        transfer=body.transfer,
    )


def _seed(seed: int | None, sample: int) -> int | None:
    """Each of n answers has its own; past the largest 64-bit number it goes on from the smallest."""
    return None if seed is None else (seed + sample + 2**63) % 2**64 - 2**63


def _limit(body: TextBody, prompt: int, limits: RequestLimits) -> int | None:
    """How many tokens may follow a prompt of `prompt` tokens; what was asked for is cut to what there is room for.

    A limit is an upper bound, and agents send the same large one to every model: the answer ends with "length".
    """
    room, default, wanted = limits.info.max_length - prompt, limits.default_limit, body.token_limit[1]
    return max(1, min(wanted, room)) if wanted is not None else default and min(default, room)
