"""Models of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from maxserve import hookimpl
from maxserve.interfaces.model_source import ModelQuery, ModelSource


@hookimpl
def maxserve_model_source(ref: str, query: ModelQuery) -> ModelSource | None:
    """The repository of that name, where there is no folder or file of it."""
    from maxserve.loading import is_repository

    if not is_repository(ref) or Path(ref).expanduser().exists():
        return None
    from maxserve.plugins.huggingface.hub import HuggingFaceHub
    from maxserve.plugins.huggingface.repository import Repository

    return ModelSource(location=Repository(ref, HuggingFaceHub(), query))
