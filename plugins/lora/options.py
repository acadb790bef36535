"""Options of LoRA adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.component import Context
from maxserve.interfaces.config import Option


@dataclass(frozen=True, slots=True)
class LoRAOptions:
    """Adapters that requests choose by model name."""

    enable_lora: Annotated[
        bool, Option(used_by="adapters"), Field(description="Serve LoRA adapters beside the base model.")
    ] = False
    lora_paths: Annotated[
        tuple[str, ...],
        Option(used_by="adapters", metavar="[NAME=]PATH"),
        Field(
            description="Folder of an adapter to load at start, or its name where a source has it, with the name "
            "clients use."
        ),
    ] = ()
    lora_dir: Annotated[
        str,
        Option(used_by="adapters", metavar="FOLDER"),
        Field(
            description="Load adapters over HTTP from within this folder alone, to which paths in requests are "
            "relative; without it, from any folder. What is in it is loaded for the first request that has its name as "
            "its model."
        ),
    ] = ""
    lora_hub: Annotated[
        tuple[str, ...],
        Option(used_by="adapters", metavar="ORG/NAME"),
        Field(
            description="Load the adapter of this repository of the Hugging Face hub for the first request that has "
            "its name as its model; * in NAME stands for any text."
        ),
    ] = ()
    max_lora_rank: Annotated[
        int, Option(used_by="adapters"), Field(description="Largest rank that an adapter may have.", ge=1)
    ] = 16
    lora_target_modules: Annotated[
        tuple[str, ...],
        Option(used_by="adapters", metavar="MODULE"),
        Field(
            description="Have slots for adapters of these modules alone, such as q_proj, self_attn or experts, and "
            "refuse adapters of others; without it, of all modules. Slots take memory whether they are used or not, "
            "and gate_proj has them in experts, too, which PEFT adapts under this name; mlp.gate_proj has none there."
        ),
    ] = ()
    max_num_loras: Annotated[
        int, Option(used_by="adapters"), Field(description="Adapters that can be in use in one step.", ge=1)
    ] = 1
    max_cpu_loras: Annotated[
        int | None,
        Option(used_by="adapters"),
        Field(
            description="Adapters that there may be in the memory of the host. For one more, the one that was asked "
            "for longest ago is unloaded, of those that were loaded for a request and are not in use; adapters of "
            "--lora-paths and of /v1/load_lora_adapter stay. Without it, 64 beside those of --lora-paths, or as many "
            "as --max-num-loras if that is more.",
            ge=1,
        ),
    ] = None


def is_enabled(context: Context) -> bool:
    """Whether the server has LoRA adapters, now or later."""
    return context.config(LoRAOptions).enable_lora
