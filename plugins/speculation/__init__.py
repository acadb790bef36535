"""Draft models of speculative decoding: so far, their options."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection

NO_DRAFT = "there are no draft models; leave it out"


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """The draft model, and the files that settings of it come from."""
    yield ConfigSection(
        name="draft_model",
        schema="maxserve.plugins.speculation.options:DraftModel",
        within="draft_model",
        title="Draft model",
        prefix="draft_",
        check="maxserve.plugins.speculation.options:check_draft",
        unsupported=NO_DRAFT,
    )
    yield ConfigSection(
        name="draft_files",
        schema="maxserve.plugins.speculation.options:DraftFiles",
        within="files",
        prefix="draft_",
        unsupported=NO_DRAFT,
    )
