"""What is a model for, when its class can be used for several things?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maxserve.core.errors import ModelError
from maxserve.core.model.sentence import is_sentence_model

if TYPE_CHECKING:
    from maxserve.core.model.places import Place

log = logging.getLogger("maxserve.model")

TEXT = "text_generation"
EMBEDDINGS = "embeddings_generation"
SCORING = "scoring"

ENGINES = {
    TEXT: "maxserve.core.engine.assemble:build_engine",
    EMBEDDINGS: "maxserve.core.engine.assemble_encoder:build_encoder",
    SCORING: "maxserve.core.engine.assemble_encoder:build_encoder",
}
"""The "module:attribute" by which a worker builds its engine, by task."""

# What repositories on the hub say that they are for.
_TAGS = {"text-generation": TEXT, "feature-extraction": EMBEDDINGS, "sentence-similarity": EMBEDDINGS}


def settle_task(served: Sequence[str], wanted: str | None, place: Place, folder: Path) -> str | None:
    """The task to serve, out of those that the model's architectures are for; None when no architecture is known.

    What is `wanted` wins, or is a ModelError when the model cannot do it. Of several tasks the pipeline tag of the
    repository decides, else whether sentence-transformers' files are in the folder.
    """
    if not served:
        return None
    if wanted is not None:
        check_task(wanted, *served, ref=place.ref)
        return wanted
    task = served[0] if len(served) == 1 else _chosen(served, place, folder)
    if task != TEXT:
        log.info("%s is served for the task %s", place.ref, task)
    return task


def check_task(wanted: str | None, *served: str, ref: str) -> None:
    """ModelError when what is wanted is none of what the model's architectures are for."""
    if wanted is not None and wanted not in served:
        raise ModelError(
            f"--task {wanted}: the architecture of {ref} is for {' and '.join(served)} only; leave --task out"
        )


def _chosen(served: Sequence[str], place: Place, folder: Path) -> str:
    tag = place.pipeline_tag()
    tagged = _TAGS.get(tag or "")
    if tagged is not None and tagged in served:
        log.info("the pipeline tag of %s is %s", place.ref, tag)
        return tagged
    if EMBEDDINGS in served and is_sentence_model(folder):
        return EMBEDDINGS
    return served[0]
