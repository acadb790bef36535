"""The built-in logit transforms, in the order in which they apply."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve.core.components import Sampler
from maxserve.core.hookspecs import hookimpl


@hookimpl
def maxserve_samplers() -> Iterable[Sampler]:
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
