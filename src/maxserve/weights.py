"""What loads weights works with: projections and tables, files and what is stored in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.loading.linear import Embedding, Linear, Part, Projection, Role
    from maxserve.core.loading.quantization import Checkpoint, ReadsFile, Stored, StoredPart, stored_weights
    from maxserve.core.loading.shard import Shard
    from maxserve.core.loading.storage import PLAIN_TYPES, LinearStorage
    from maxserve.core.loading.weight_files import OpenFiles, open_files, tensor_of

__all__ = [
    "Checkpoint",
    "Embedding",
    "Linear",
    "LinearStorage",
    "OpenFiles",
    "PLAIN_TYPES",
    "Part",
    "Projection",
    "ReadsFile",
    "Role",
    "Shard",
    "Stored",
    "StoredPart",
    "open_files",
    "stored_weights",
    "tensor_of",
]

__getattr__ = exports(
    __name__,
    {
        "Checkpoint": "maxserve.core.loading.quantization",
        "Embedding": "maxserve.core.loading.linear",
        "Linear": "maxserve.core.loading.linear",
        "LinearStorage": "maxserve.core.loading.storage",
        "OpenFiles": "maxserve.core.loading.weight_files",
        "PLAIN_TYPES": "maxserve.core.loading.storage",
        "Part": "maxserve.core.loading.linear",
        "Projection": "maxserve.core.loading.linear",
        "ReadsFile": "maxserve.core.loading.quantization",
        "Role": "maxserve.core.loading.linear",
        "Shard": "maxserve.core.loading.shard",
        "Stored": "maxserve.core.loading.quantization",
        "StoredPart": "maxserve.core.loading.quantization",
        "open_files": "maxserve.core.loading.weight_files",
        "stored_weights": "maxserve.core.loading.quantization",
        "tensor_of": "maxserve.core.loading.weight_files",
    },
)
