"""Headers of safetensors files: no weights are read, and no torch is needed."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.weight_format import TensorInfo

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "BF16": 16, "F16": 16, "U8": 8, "I8": 8, "BOOL": 8}
_LFS_POINTER = b"version https://git-lfs"


def read_header(path: str) -> dict[str, TensorInfo]:
    """The tensors of a file by name; ModelError when the file is damaged, incomplete or something else."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            entries, start = _read_entries(stream, path, file.stat().st_size)
        length = file.stat().st_size
    except OSError as error:
        raise ModelError(f"the weight file {path} cannot be read: {error.strerror}") from error
    entries.pop("__metadata__", None)
    try:
        tensors = {name: _tensor(entry) for name, entry in entries.items()}
        end = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the weight file {path} has a damaged header; fetch it again") from error
    if length < end:
        raise ModelError(f"the weight file {path} is incomplete: {length} of {end} bytes; fetch it again")
    return tensors


def _read_entries(stream: BinaryIO, path: str, size: int) -> tuple[dict[str, Any], int]:
    """The header's JSON object and where the tensors start."""
    prefix = stream.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= _LONGEST_HEADER:
        is_pointer = (prefix + stream.read(32)).startswith(_LFS_POINTER)
        what = "a Git LFS pointer, run `git lfs pull`" if is_pointer else "no safetensors file, or a damaged one"
        raise ModelError(f"the weight file {path} is {what}")
    if length > size - 8:
        raise ModelError(f"the weight file {path} is incomplete: its header alone has {length} bytes; fetch it again")
    try:
        entries = json.loads(stream.read(length))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the weight file {path} has a damaged header; fetch it again") from error
    if not isinstance(entries, dict):
        raise ModelError(f"the weight file {path} has a damaged header; fetch it again")
    return entries, 8 + length


def _tensor(entry: dict[str, Any]) -> TensorInfo:
    """ValueError, TypeError or KeyError where the numbers do not go together."""
    begin, end = map(_whole, entry["data_offsets"])
    dtype, shape = str(entry["dtype"]), tuple(map(_whole, entry["shape"]))
    bits = _BITS.get(dtype)
    if end < begin or (bits is not None and math.prod(shape) * bits != (end - begin) * 8):
        raise ValueError(f"{shape} of {dtype} in {end - begin} bytes")
    return TensorInfo(dtype=dtype, shape=shape, size=end - begin)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value
