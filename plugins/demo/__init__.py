"""The model that is served when none is named, what drafts for it, and an adapter of it.

`maxserve/demo` is the folder `model` beside this file: a small Llama trained by `tools/demo_model/train.py`. Its
companions, trained by `tools/demo_model/companions.py`, are an EAGLE-3 head in `eagle3`, a draft model in `draft` and
a LoRA adapter in `pirate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from maxserve import hookimpl
from maxserve.interfaces.adapter_source import AdapterSource
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.model_source import ModelSource

DEMO = "maxserve/demo"
HEAD = "maxserve/demo-eagle3"
DRAFT = "maxserve/demo-draft"
PIRATE = "maxserve/demo-pirate"
FOLDERS = {DEMO: "model", HEAD: "eagle3", DRAFT: "draft"}
ADAPTERS = {PIRATE: "pirate"}
COMPANIONS = {"eagle": {"draft_model_path": HEAD}, "standalone": {"draft_model_path": DRAFT}}


def folder_of(name: str) -> str:
    """The folder of what ships under a name."""
    return str(Path(__file__).parent / {**FOLDERS, **ADAPTERS}[name])


@hookimpl
def maxserve_model_source(ref: str) -> ModelSource | None:
    """The folder of the demo model, or of a companion, when it is asked for by name."""
    if ref in ADAPTERS:
        raise ModelError(f"{ref} is an adapter of {DEMO}, and no model; serve it with --enable-lora --lora-paths {ref}")
    if ref not in FOLDERS:
        return None
    if ref != DEMO:
        return ModelSource(path=folder_of(ref), note="drafts for the demo model")
    return ModelSource(
        path=folder_of(ref), note="the demo model: a tiny help desk that knows only maxserve", companions=COMPANIONS
    )


@hookimpl
def maxserve_adapter_sources() -> Iterable[AdapterSource]:
    yield AdapterSource(
        name="demo", build="maxserve.plugins.demo.adapters:DemoAdapters", summary="the adapter of the demo model"
    )
