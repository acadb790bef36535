"""Which files of a folder or repository hold the weights?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from maxserve.core.errors import ModelError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def choose_weights(names: Collection[str], read_index: Callable[[str], Mapping[str, Any]], ref: str) -> list[str]:
    """The safetensors files to read out of `names`; ModelError saying what there is instead."""
    root = sorted(name for name in names if "/" not in name)
    indices = [name for name in root if name.endswith(".safetensors.index.json")]
    if indices:
        index = INDEX if INDEX in indices else indices[0]
        shards = _shards(index, read_index(index), ref)
        if WHOLE in root and WHOLE not in shards:
            return [WHOLE]  # as transformers does: the index was left behind when the shards were merged
        return _present(shards, index, names, ref)
    files = [name for name in root if name.endswith(".safetensors")]
    if len(files) > 1:
        files = [name for name in files if "consolidated" not in name] or files
    if not files:
        raise ModelError(_nothing(root, ref))
    return files


def refuse_unreadable(name: str) -> None:
    """ModelError for a weight file in a format that is not read."""
    if name.endswith(".safetensors"):
        return
    if name.endswith(".gguf"):
        raise ModelError(f"{name}: GGUF files are not supported yet; use a safetensors checkpoint")
    if _is_pickle(name):
        raise ModelError(f"{name}: pickle files can run code and are not read; convert them to safetensors")
    raise ModelError(f"{name}: weights are read from .safetensors files only")


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
        bad = outside or missing
        listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ModelError(f"{ref}: {index} lists files that are not there: {listed}; fetch the model again")
    return shards


def _nothing(root: list[str], ref: str) -> str:
    if any(name.endswith(".gguf") for name in root):
        return f"{ref} has only GGUF weights, which are not supported yet; use a safetensors checkpoint"
    if any(map(_is_pickle, root)):
        return f"{ref} has only pickle weights, which can run code and are not read; convert them to safetensors"
    return f"{ref} has no weights: there is no .safetensors file beside config.json"


def _is_pickle(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _PICKLES)
