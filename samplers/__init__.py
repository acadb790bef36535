"""The built-in logit transforms, in the order in which they apply."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.sampler import Sampler


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Switches of what requests may ask."""
    yield ConfigSection(name="samplers", schema="maxserve.samplers.switches:Switches", within="sampling")


@hookimpl
def maxserve_samplers() -> Iterable[Sampler]:
    yield Sampler(
        name="repetition_penalty",
        params="maxserve.samplers.repetition_penalty:RepetitionPenalty",
        build="maxserve.samplers.repetition_penalty:build",
        summary="makes tokens of prompt and answer less likely",
        stage=10,
        switch="samplers.enable_penalties",
    )
    yield Sampler(
        name="frequency_penalty",
        params="maxserve.samplers.frequency_penalty:FrequencyPenalty",
        build="maxserve.samplers.frequency_penalty:build",
        summary="takes from a token's logit each time it was generated",
        stage=12,
        switch="samplers.enable_penalties",
    )
    yield Sampler(
        name="presence_penalty",
        params="maxserve.samplers.presence_penalty:PresencePenalty",
        build="maxserve.samplers.presence_penalty:build",
        summary="takes from the logit of a token that was generated",
        stage=14,
        switch="samplers.enable_penalties",
    )
    yield Sampler(
        name="logit_bias",
        params="maxserve.samplers.logit_bias:LogitBias",
        build="maxserve.samplers.logit_bias:build",
        summary="adds to the logits of single tokens, or bans them",
        stage=20,
    )
    yield Sampler(
        name="min_tokens",
        params="maxserve.samplers.min_tokens:MinTokens",
        build="maxserve.samplers.min_tokens:build",
        summary="lets no end token come before so many tokens",
        stage=30,
        switch="samplers.enable_min_tokens",
    )
    yield Sampler(
        name="bad_words",
        params="maxserve.samplers.bad_words:BadWords",
        build="maxserve.samplers.bad_words:build",
        summary="bans the token that would complete a text",
        stage=32,
    )
    yield Sampler(
        name="allowed_token_ids",
        params="maxserve.samplers.allowed_token_ids:AllowedTokenIds",
        build="maxserve.samplers.allowed_token_ids:build",
        summary="keeps the given tokens only",
        stage=34,
    )
    yield Sampler(
        name="temperature",
        params="maxserve.samplers.temperature:Temperature",
        build="maxserve.samplers.temperature:build",
        summary="divides the logits; 0 takes the likeliest token",
        stage=40,
        keeps_argmax=True,
    )
    yield Sampler(
        name="top_k",
        params="maxserve.samplers.top_k:TopK",
        build="maxserve.samplers.top_k:build",
        summary="keeps the k likeliest tokens",
        stage=50,
        keeps_argmax=True,
    )
    yield Sampler(
        name="top_p",
        params="maxserve.samplers.top_p:TopP",
        build="maxserve.samplers.top_p:build",
        summary="keeps the likeliest tokens that together reach p",
        stage=60,
        keeps_argmax=True,
    )
    yield Sampler(
        name="min_p",
        params="maxserve.samplers.min_p:MinP",
        build="maxserve.samplers.min_p:build",
        summary="drops tokens less likely than p times the likeliest",
        stage=70,
        keeps_argmax=True,
    )
