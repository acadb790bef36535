"""Models and adapters of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from maxserve import hookimpl
from maxserve.interfaces.adapter_source import AdapterSource
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.model_source import ModelQuery, ModelSource

_TAG = re.compile(r"\w[\w.-]*")


def is_tag(text: str) -> bool:
    """Whether names of files may have it as a part, such as Q4_K_M."""
    return _TAG.fullmatch(text) is not None


@hookimpl
def maxserve_model_source(ref: str, query: ModelQuery) -> ModelSource | None:
    """The repository of that name, where there is no folder or file of it; org/repo:TAG is one of several models."""
    from maxserve.loading import is_repository

    name, _, tag = ref.partition(":")
    if not is_repository(name) or Path(ref).expanduser().exists():
        return None
    if ":" in ref and not is_tag(tag):
        raise ModelError(f"{ref}: after the colon comes what the names of files say of a model, such as {name}:Q4_K_M")
    from maxserve.plugins.huggingface.hub import HuggingFaceHub
    from maxserve.plugins.huggingface.repository import Repository

    return ModelSource(location=Repository(ref, HuggingFaceHub(), query))


@hookimpl
def maxserve_adapter_sources() -> Iterable[AdapterSource]:
    yield AdapterSource(
        name="huggingface",
        build="maxserve.plugins.huggingface.adapters:HubAdapters",
        summary="repositories of the Hugging Face hub, those of --lora-hub for requests",
    )
