"""LoRA adapters: PEFT's folders, loaded at the start or while serving."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.adapter import Adapter
from maxserve.interfaces.adapter_source import AdapterSource
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.routes import Routes


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Which adapters are served, and how large they may be."""
    yield ConfigSection(
        name="lora",
        schema="maxserve.plugins.lora.options:LoRAOptions",
        check="maxserve.plugins.lora.checks:check",
        within="lora",
        title="LoRA",
    )


@hookimpl
def maxserve_adapters() -> Iterable[Adapter]:
    yield Adapter(
        name="lora",
        build="maxserve.plugins.lora.table:LoRATable",
        kinds=("linear", "head", "embedding", "experts", "latent"),
        wanted="maxserve.plugins.lora.options:is_enabled",
        summary="low-rank corrections of projections, as PEFT saves them",
    )


@hookimpl
def maxserve_adapter_sources() -> Iterable[AdapterSource]:
    yield AdapterSource(
        name="lora-dir", build="maxserve.plugins.lora.folders:LoRADir", summary="the folder of --lora-dir"
    )


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="lora",
        build="maxserve.plugins.lora.router:router",
        prefix="/",
        default=True,
        summary="POST /v1/load_lora_adapter, /v1/unload_lora_adapter",
    )
