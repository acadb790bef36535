"""The architecture of a model: which serves where none is named after its class, its config, its weight map.

Layers of a checkpoint that predict further tokens, for speculation, follow the model's own: families number them on
from `num_hidden_layers`. Answers do without them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from maxserve.core.interfaces.architecture import OrdersRotaryRows, TensorChange, WeightMap
from maxserve.core.interfaces.errors import MaxserveError, ModelError, cause

if TYPE_CHECKING:
    from maxserve.core.interfaces.architecture import Architecture, ModelSpec
    from maxserve.core.loading.location import ModelFolder
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


_COUNTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers")
_MOST = 64  # of a config that makes sense


def next_token_layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Expressions of their names, as checkpoints have them, by the content of config.json; none where it has none."""
    part = config.get("text_config")
    for raw in (config, part if isinstance(part, Mapping) else {}):
        first, count = raw.get("num_hidden_layers"), next((raw[key] for key in _COUNTS if key in raw), None)
        if _is_count(first) and _is_count(count):
            layers = min(max(count, 1), _MOST)  # 0 switches them off; the checkpoint keeps its own
            return (layer_pattern(first, layers),)
    return ()


def layer_pattern(first: int, count: int) -> str:
    """An expression of the names of `count` layers from number `first` on."""
    return rf"(^|\.)layers\.({'|'.join(str(first + i) for i in range(count))})\."


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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


def read_weight_map(
    host: Host, entry: Entry[Architecture], spec: ModelSpec, config: Mapping[str, Any], *, rope_type: str | None = None
) -> WeightMap:
    """How the tensors of a checkpoint of `config`, the content of config.json, become the model's.

    `rope_type` (--rope-type) says how its rotary rows are ordered; ModelError where that contradicts the model.
    """
    given = entry.component.weights
    found: WeightMap = given if isinstance(given, WeightMap) else host.load(entry, given)(spec)
    optional = (*found.optional, *next_token_layers(config))
    return replace(found, optional=optional, changes=(*found.changes, *rotary_changes(spec, rope_type, entry.name)))


def rotary_changes(spec: object, rope_type: str | None, architecture: str) -> tuple[TensorChange, ...]:
    """What `--rope-type` asks for of a ModelSpec, or of a head that drafts; ModelError where that is not known."""
    if rope_type is None:
        return ()
    if isinstance(spec, OrdersRotaryRows):
        return spec.rotary_changes(rope_type, architecture)
    if rope_type == "none":
        return ()
    raise ModelError(
        f"--rope-type {rope_type}: architecture {architecture} has no rotary positions, or does not say how they are; "
        "leave it out"
    )
