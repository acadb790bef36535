"""The model that is served when none is named, and what drafts for it.

`maxserve/demo` is the folder `model` beside this file: a small Llama trained by `tools/demo_model/train.py`. Its
companions, trained by `tools/demo_model/companions.py`, are an EAGLE-3 head in `eagle3` and a draft model in `draft`.
"""

from __future__ import annotations

from pathlib import Path

from maxserve import hookimpl
from maxserve.interfaces.model_source import ModelSource

DEMO = "maxserve/demo"
HEAD = "maxserve/demo-eagle3"
DRAFT = "maxserve/demo-draft"
FOLDERS = {DEMO: "model", HEAD: "eagle3", DRAFT: "draft"}
COMPANIONS = {"eagle": {"draft_model_path": HEAD}, "standalone": {"draft_model_path": DRAFT}}


@hookimpl
def maxserve_model_source(ref: str) -> ModelSource | None:
    """The folder of the demo model, or of a companion, when it is asked for by name."""
    if ref not in FOLDERS:
        return None
    folder = str(Path(__file__).parent / FOLDERS[ref])
    if ref != DEMO:
        return ModelSource(path=folder, note="drafts for the demo model")
    return ModelSource(
        path=folder, note="the demo model: a tiny help desk that knows only maxserve", companions=COMPANIONS
    )
