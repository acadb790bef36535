"""LoRA adapters: so far, their options."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Which adapters are served, and how large they may be."""
    yield ConfigSection(
        name="lora",
        schema="maxserve.plugins.lora.options:LoRAOptions",
        within="lora",
        title="LoRA",
        unsupported="there are no adapters; serve a merged model",
    )
