"""The task of a model whose class can be used for several."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from maxserve.core.interfaces.engine import TEXT, Engine
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.registry.entries import Entry
from maxserve.core.registry.sources import BUILT_IN

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.model_source import ModelLocation
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.ranks import RankGroup

log = logging.getLogger("maxserve.model")


GENERATION = Engine(
    name="generation",
    build="maxserve.core.assembly.assemble:build",
    tasks=(TEXT,),
    tags={"text-generation": TEXT},
    summary="Text, token by token.",
)
"""The engine that is no plugin."""


class OwnContext(NamedTuple):
    """What an engine is built with that is no plugin's; `group` are the ranks that share the model."""

    settings: Settings
    host: Host
    files: ModelFiles
    progress: Progress
    group: RankGroup | None = None


def engine_for(task: str, host: Host) -> Entry[Engine]:
    """What serves models of that task; ModelError where no plugin says that it does."""
    for entry in _engines(host):
        if task in entry.component.tasks:
            return entry
    raise ModelError(f"no engine serves the task {task}; is the plugin that brings it left out?")


def engine_files(host: Host) -> tuple[str, ...]:
    """Patterns of the files that engines read beside a model's config and tokenizer."""
    return tuple(pattern for entry in _engines(host) for pattern in entry.component.files)


def _engines(host: Host) -> list[Entry[Engine]]:
    own = Entry(kind=Engine.kind, component=GENERATION, plugin="maxserve", origin=BUILT_IN, where=str(GENERATION.build))
    return [own, *host.of(Engine)]


def settle_task(
    served: Sequence[str], wanted: str | None, location: ModelLocation, folder: Path, host: Host
) -> str | None:
    """The task to serve, out of those that the model's architectures are for; None when no architecture is known.

    What is `wanted` wins, or is a ModelError when the model cannot do it. Of several tasks the pipeline tag of the
    repository decides, else an engine that recognises its files in the folder.
    """
    if not served:
        return None
    if wanted is not None:
        check_task(wanted, *served, ref=location.ref)
        return wanted
    task = served[0] if len(served) == 1 else _chosen(served, location, folder, host)
    if task != TEXT:
        log.info("%s is served for the task %s", location.ref, task)
    return task


def check_task(wanted: str | None, *served: str, ref: str) -> None:
    """ModelError when what is wanted is none of what the model's architectures are for."""
    if wanted is not None and wanted not in served:
        raise ModelError(
            f"--task {wanted}: the architecture of {ref} is for {' and '.join(served)} only; leave --task out"
        )


def _chosen(served: Sequence[str], location: ModelLocation, folder: Path, host: Host) -> str:
    engines = _engines(host)
    tags = {tag: task for entry in engines for tag, task in entry.component.tags.items()}
    tag = location.pipeline_tag()
    tagged = tags.get(tag or "")
    if tagged is not None and tagged in served:
        log.info("the pipeline tag of %s is %s", location.ref, tag)
        return tagged
    for entry in engines:
        if entry.component.recognises is not None:
            task: str | None = host.load(entry, entry.component.recognises)(folder)
            if task is not None and task in served:
                return task
    return served[0]
