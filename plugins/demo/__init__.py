"""The model that is served when none is named.

`maxserve/demo` is the folder `model` beside this file: a small Llama trained by `tools/demo_model/train.py`.
"""

from __future__ import annotations

from pathlib import Path

from maxserve import hookimpl
from maxserve.interfaces.model_source import ModelSource

DEMO = "maxserve/demo"


@hookimpl
def maxserve_model_source(ref: str) -> ModelSource | None:
    """The folder of the demo model, when it is asked for by name."""
    if ref != DEMO:
        return None
    folder = Path(__file__).parent / "model"
    return ModelSource(path=str(folder), note="the demo model: a tiny help desk that knows only maxserve")
