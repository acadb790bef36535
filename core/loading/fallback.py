"""Architectures for models whose class none is named after."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import MaxserveError, ModelError
from maxserve.core.loading.next_tokens import next_token_layers
from maxserve.core.registry.entries import cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maxserve.core.interfaces.architecture import Architecture, ModelSpec
    from maxserve.core.interfaces.host import Host
    from maxserve.core.loading.folder import ModelFolder
    from maxserve.core.registry.entries import Entry

log = logging.getLogger("maxserve.model")


def find_fallback(host: Host, folder: ModelFolder, unknown: str) -> Entry[Architecture]:
    """The one fallback that serves the model; ModelError with `unknown`, why there is no other, and why none does."""
    asked = [entry for entry in host.architectures if entry.component.fallback is not None]
    faults = {entry.name: _refusal(host, entry, folder) for entry in asked}
    willing = [entry for entry in asked if faults[entry.name] is None]
    if not willing:
        reasons = [f"fallback {name!r}: {reason}" for name, reason in faults.items()]
        raise ModelError("; ".join([unknown, *reasons]))
    if len(willing) > 1:
        providers = " and ".join(map(str, willing))
        raise ModelError(f"{unknown}; {providers} would serve it both: leave one out with --no-plugin")
    log.info("no architecture is named after the model's class: %s serves it", willing[0])
    return willing[0]


def _refusal(host: Host, entry: Entry[Architecture], folder: ModelFolder) -> str | None:
    assert entry.component.fallback is not None
    reason: str | None = host.load(entry, entry.component.fallback)(folder)
    return reason


def read_spec(host: Host, entry: Entry[Architecture], folder: ModelFolder) -> ModelSpec:
    """What the architecture makes of a model's config."""
    read = host.load(entry, entry.component.config)
    try:
        spec: ModelSpec = read(folder if entry.component.reads_folder else folder.config)
    except MaxserveError:
        raise
    except Exception as error:  # values of a kind, or in a combination, that was not thought of
        log.debug("reading config.json failed", exc_info=error)
        raise ModelError(
            f"config.json: architecture {entry.name} cannot make sense of it ({_brief(error)}); is a value of the "
            "wrong kind, or is it the config of another model?"
        ) from error
    return spec


def _brief(error: Exception) -> str:
    text = cause(error)
    return text if len(text) <= 300 else text[:297] + "..."


def read_weight_map(host: Host, entry: Entry[Architecture], spec: ModelSpec, config: Mapping[str, Any]) -> WeightMap:
    """How the names of a checkpoint of `config`, the content of config.json, become the model's."""
    given = entry.component.weights
    found: WeightMap = given if isinstance(given, WeightMap) else host.load(entry, given)(spec)
    return replace(found, optional=(*found.optional, *next_token_layers(config)))
