"""From the files of a model to a module and what serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.assembly.compilers import Compilers, preferred_backend
    from maxserve.core.assembly.grouped_attention import HasParts
    from maxserve.core.assembly.params import ParamsReader, request_params
    from maxserve.core.engine.parts import Counters
    from maxserve.core.engine.validation import validate_ids, validate_request
    from maxserve.core.loading.architecture import layer_pattern
    from maxserve.core.loading.build import on_meta, weight_bytes
    from maxserve.core.loading.device import choose_device
    from maxserve.core.loading.json_files import read_object, read_optional_object, read_value
    from maxserve.core.loading.linear import Adaptable, Embedding, ExactLinear, Linear, Part, Projection, Role, weight
    from maxserve.core.loading.location import Folder, ModelFolder, is_repository
    from maxserve.core.loading.progress import NullProgress
    from maxserve.core.loading.quantization import held_size, rounding_to
    from maxserve.core.loading.resolve import resolve_checkpoint
    from maxserve.core.loading.shard import Shard, current_shard, shared_by
    from maxserve.core.loading.stack import DraftChain, LayerStack
    from maxserve.core.loading.storage import LinearStorage
    from maxserve.core.loading.weight_files import OpenFiles, open_files, open_weights
    from maxserve.plugins.adapters.bound import BoundLatentCorrection, TowerRows
    from maxserve.plugins.cache.memory_plan import NeedsRoom, activation_bytes, free_memory, size_text
    from maxserve.plugins.weights.rounded import may_be_rounded
    from maxserve.plugins.weights.shards import Layout, Shared, Span, layout_of
    from maxserve.plugins.weights.weight_plan import Parameters, Target, locator, unwrapped
    from maxserve.plugins.weights.weights import load_weights, place_weights

__all__ = [
    "Layout",
    "Shared",
    "Span",
    "layout_of",
    "may_be_rounded",
    "held_size",
    "on_meta",
    "choose_device",
    "rounding_to",
    "resolve_checkpoint",
    "open_files",
    "OpenFiles",
    "NullProgress",
    "Compilers",
    "Counters",
    "DraftChain",
    "Adaptable",
    "BoundLatentCorrection",
    "Target",
    "TowerRows",
    "Embedding",
    "ExactLinear",
    "Folder",
    "HasParts",
    "LayerStack",
    "Linear",
    "LinearStorage",
    "ModelFolder",
    "NeedsRoom",
    "Parameters",
    "ParamsReader",
    "Part",
    "Projection",
    "Role",
    "Shard",
    "activation_bytes",
    "current_shard",
    "free_memory",
    "is_repository",
    "layer_pattern",
    "load_weights",
    "locator",
    "open_weights",
    "place_weights",
    "preferred_backend",
    "read_object",
    "read_optional_object",
    "read_value",
    "request_params",
    "shared_by",
    "size_text",
    "unwrapped",
    "validate_ids",
    "validate_request",
    "weight",
    "weight_bytes",
]

__getattr__ = exports(
    __name__,
    {
        "Layout": "maxserve.plugins.weights.shards",
        "Shared": "maxserve.plugins.weights.shards",
        "Span": "maxserve.plugins.weights.shards",
        "layout_of": "maxserve.plugins.weights.shards",
        "may_be_rounded": "maxserve.plugins.weights.rounded",
        "held_size": "maxserve.core.loading.quantization",
        "on_meta": "maxserve.core.loading.build",
        "choose_device": "maxserve.core.loading.device",
        "Compilers": "maxserve.core.assembly.compilers",
        "Counters": "maxserve.core.engine.parts",
        "DraftChain": "maxserve.core.loading.stack",
        "Adaptable": "maxserve.core.loading.linear",
        "BoundLatentCorrection": "maxserve.plugins.adapters.bound",
        "TowerRows": "maxserve.plugins.adapters.bound",
        "Embedding": "maxserve.core.loading.linear",
        "ExactLinear": "maxserve.core.loading.linear",
        "Folder": "maxserve.core.loading.location",
        "HasParts": "maxserve.core.assembly.grouped_attention",
        "LayerStack": "maxserve.core.loading.stack",
        "Linear": "maxserve.core.loading.linear",
        "LinearStorage": "maxserve.core.loading.storage",
        "ModelFolder": "maxserve.core.loading.location",
        "NeedsRoom": "maxserve.plugins.cache.memory_plan",
        "NullProgress": "maxserve.core.loading.progress",
        "OpenFiles": "maxserve.core.loading.weight_files",
        "Parameters": "maxserve.plugins.weights.weight_plan",
        "Target": "maxserve.plugins.weights.weight_plan",
        "locator": "maxserve.plugins.weights.weight_plan",
        "ParamsReader": "maxserve.core.assembly.params",
        "Part": "maxserve.core.loading.linear",
        "Projection": "maxserve.core.loading.linear",
        "Role": "maxserve.core.loading.linear",
        "Shard": "maxserve.core.loading.shard",
        "current_shard": "maxserve.core.loading.shard",
        "shared_by": "maxserve.core.loading.shard",
        "activation_bytes": "maxserve.plugins.cache.memory_plan",
        "free_memory": "maxserve.plugins.cache.memory_plan",
        "is_repository": "maxserve.core.loading.location",
        "layer_pattern": "maxserve.core.loading.architecture",
        "load_weights": "maxserve.plugins.weights.weights",
        "open_files": "maxserve.core.loading.weight_files",
        "open_weights": "maxserve.core.loading.weight_files",
        "place_weights": "maxserve.plugins.weights.weights",
        "preferred_backend": "maxserve.core.assembly.compilers",
        "read_object": "maxserve.core.loading.json_files",
        "read_optional_object": "maxserve.core.loading.json_files",
        "read_value": "maxserve.core.loading.json_files",
        "request_params": "maxserve.core.assembly.params",
        "resolve_checkpoint": "maxserve.core.loading.resolve",
        "rounding_to": "maxserve.core.loading.quantization",
        "size_text": "maxserve.plugins.cache.memory_plan",
        "unwrapped": "maxserve.plugins.weights.weight_plan",
        "validate_ids": "maxserve.core.engine.validation",
        "validate_request": "maxserve.core.engine.validation",
        "weight": "maxserve.core.loading.linear",
        "weight_bytes": "maxserve.core.loading.build",
    },
)
