"""Weights in safetensors files."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import WeightFormat, hookimpl


@hookimpl
def maxserve_weight_formats() -> Iterable[WeightFormat]:
    yield WeightFormat(
        name="safetensors",
        build="maxserve.plugins.safetensors.files:Safetensors",
        suffixes=(".safetensors",),
        priority=10,
        summary="Single files and shards, mapped into memory.",
    )
