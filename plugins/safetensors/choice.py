"""The files of a folder or repository that hold the weights.

As transformers reads them, model.safetensors decides, and else the shards that model.safetensors.index.json lists,
whatever else lies there: adapters, other precisions, what training left behind, the same weights in another format. In
a folder without either all that can be weights is read; where it holds them twice, `--weight-path` has to choose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from maxserve.interfaces.errors import ModelError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDICES = ".safetensors.index.json"

# Files beside a model's own, by their names: never the weights of the model.
_BESIDE = re.compile(r"(^|[._-])(adapter|lora|optimizer|scheduler|training|trainer|ema|rng)([._-]|s?$)", re.IGNORECASE)
_SHARD = re.compile(r"(?P<set>.+)-(?P<number>\d+)-of-(?P<count>\d+)")
_META = re.compile(r"consolidated(\.\d+)?(-\d+-of-\d+)?")


def choose_weights(names: Collection[str], read_index: Callable[[str], Mapping[str, Any]], ref: str) -> list[str]:
    """The safetensors files to read out of `names`, none where none has weights; ModelError where some are missing."""
    root = sorted(name for name in names if "/" not in name)
    if INDEX in root:
        shards = _shards(INDEX, read_index(INDEX), ref)
        if WHOLE in root and WHOLE not in shards:
            return [WHOLE]  # as transformers does: the index was left behind when the shards were merged
        return _present(shards, INDEX, names, ref)
    if WHOLE in root:
        return [WHOLE]
    return _other_names(root, names, read_index, ref)


def _other_names(
    root: list[str], names: Collection[str], read_index: Callable[[str], Mapping[str, Any]], ref: str
) -> list[str]:
    """Weights under other names than the usual ones."""
    files = [name for name in root if name.endswith(".safetensors") and not _BESIDE.search(_stem(name))]
    files = [name for name in files if not _META.fullmatch(_stem(name))] or files
    if not files:
        return []
    indices = [
        index for index in root if index.endswith(_INDICES) and index.removesuffix(_INDICES) in map(_set_of, files)
    ]
    if len(indices) == 1:
        return _present(_shards(indices[0], read_index(indices[0]), ref), indices[0], names, ref)
    return _complete(files, ref)


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")


def _set_of(name: str) -> str:
    """What the files of one set have in common: their name without the number of a shard."""
    match = _SHARD.fullmatch(_stem(name))
    stem = match["set"] if match else _stem(name)
    return "consolidated" if _META.fullmatch(stem) else stem


def _complete(files: list[str], ref: str) -> list[str]:
    """The files, none of which is missing by their own count."""
    for name in files:
        match = _SHARD.fullmatch(_stem(name))
        there = sum(_set_of(file) == _set_of(name) for file in files)
        if match and int(match["count"]) != there:
            raise ModelError(
                f"{ref} has {there} of the {int(match['count'])} files that {name} is one of; fetch it again"
            )
    return files


def _shards(index: str, content: Mapping[str, Any], ref: str) -> list[str]:
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ModelError(f"{ref}: {index} has no weight_map; the file may be damaged, fetch it again")
    return sorted({str(PurePosixPath(str(name))) for name in weight_map.values()})


def _present(shards: list[str], index: str, names: Collection[str], ref: str) -> list[str]:
    """The shards, none of which is missing or outside the model's folder."""
    outside = [name for name in shards if name.startswith("/") or ".." in PurePosixPath(name).parts]
    missing = [name for name in shards if name not in names]
    if outside or missing:
        raise ModelError(
            f"{ref}: {index} lists files that are not there: {_listed(outside or missing)}; fetch the model again"
        )
    return shards


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
