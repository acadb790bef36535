"""What is in a safetensors file? Its header alone is read: no weights, no torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from maxserve.core.errors import ModelError

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor as its file describes it; `dtype` in the format's names (F32, BF16, …)."""

    dtype: str
    shape: tuple[int, ...]
    size: int  # bytes


def read_header(path: str) -> dict[str, TensorInfo]:
    """The tensors of a file by name; ModelError when the file is damaged, incomplete or something else."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            entries, start = _read_entries(stream, path)
        length = file.stat().st_size
    except OSError as error:
        raise ModelError(f"the weight file {path} cannot be read: {error.strerror}") from error
    try:
        tensors = {name: _tensor(entry) for name, entry in entries.items() if name != "__metadata__"}
        end = start + max(
            (entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the weight file {path} has a damaged header; fetch it again") from error
    if length < end:
        raise ModelError(f"the weight file {path} is incomplete: {length} of {end} bytes; fetch it again")
    return tensors


def _read_entries(stream: BinaryIO, path: str) -> tuple[dict[str, Any], int]:
    """The header's JSON object and where the tensors start."""
    prefix = stream.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= _LONGEST_HEADER:
        is_pointer = (prefix + stream.read(32)).startswith(_LFS_POINTER)
        what = "a Git LFS pointer, run `git lfs pull`" if is_pointer else "no safetensors file, or a damaged one"
        raise ModelError(f"the weight file {path} is {what}")
    try:
        entries = json.loads(stream.read(length))
    except ValueError as error:
        raise ModelError(f"the weight file {path} has a damaged header; fetch it again") from error
    if not isinstance(entries, dict):
        raise ModelError(f"the weight file {path} has a damaged header; fetch it again")
    return entries, 8 + length


def _tensor(entry: dict[str, Any]) -> TensorInfo:
    begin, end = entry["data_offsets"]
    return TensorInfo(
        dtype=str(entry["dtype"]), shape=tuple(int(n) for n in entry["shape"]), size=int(end) - int(begin)
    )
