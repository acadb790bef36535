"""GGUF files while they are written: metadata and the places of tensors first, then the tensors one after another."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.errors import ModelError
from maxserve.loading import size_text
from maxserve.plugins.gguf.container import TensorPlace
from maxserve.plugins.gguf.types import TYPES, TensorType

if TYPE_CHECKING:
    import torch

_VERSION, _ALIGNMENT = 3, 32
_NUMBERS = {type.name: number for number, type in TYPES.items()}
_U8, _U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _I64 = 0, 4, 5, 6, 7, 8, 9, 11
_FORMATS = {_U8: "<B", _U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?", _I64: "<q"}
_AT_ONCE = 1 << 24  # bytes that are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTensor:
    """A tensor that will be written: its shape has the slowest axis first."""

    name: str
    type: TensorType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) // self.type.values * self.type.size


class NewFile:
    """A new GGUF file, which has its whole size, and all but the content of its tensors, from the beginning."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], tensors: Sequence[NewTensor]) -> None:
        self.path = path
        self.places: dict[str, TensorPlace] = {}
        self._sums: dict[str, int] = {}
        head = _head(metadata, tensors)
        start = end = _aligned(len(head))
        for tensor in tensors:
            self.places[tensor.name] = TensorPlace(tensor.type, tensor.shape, end, tensor.size)
            end = _aligned(end + tensor.size)
        free = shutil.disk_usage(path.parent).free
        if end > free:
            raise ModelError(
                f"the file will have {size_text(end)}, and {size_text(free)} are free there; make room, or name OUT on "
                "another disk"
            )
        self._file = path.open("w+b")
        self._file.truncate(end)
        self._file.write(head.ljust(start, b"\0"))

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, name: str, parts: Iterable[torch.Tensor]) -> None:
        """Writes a tensor's bytes, which come in parts of its rows."""
        place, written, total = self.places[name], 0, 0
        self._file.seek(place.offset)
        for part in parts:
            raw = _bytes(part)
            self._file.write(raw)
            written, total = zlib.crc32(raw, written), total + len(raw)
        assert total == place.size, f"{name} has {total} bytes, not {place.size}"
        self._sums[name] = written

    def flush(self) -> None:
        self._file.flush()

    def check(self) -> None:
        """Reads all tensors again; ModelError where one is not what was written."""
        self._file.flush()
        for name, place in self.places.items():
            self._file.seek(place.offset)
            left, found = place.size, 0
            while left:
                chunk = self._file.read(min(left, _AT_ONCE))
                if not chunk:
                    break
                left, found = left - len(chunk), zlib.crc32(chunk, found)
            if left or found != self._sums.get(name):
                raise ModelError(f"{self.path}: {name} is not what was written; is the disk in order?")


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _head(metadata: Mapping[str, Any], tensors: Sequence[NewTensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind = _kind(value)
        parts += [_string(key), struct.pack("<I", kind), _value(kind, value)]
    offset = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]
        parts += [_string(tensor.name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
        parts.append(struct.pack("<IQ", _NUMBERS[tensor.type.name], offset))
        offset = _aligned(offset + tensor.size)
    return b"".join(parts)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _U32 if 0 <= value < 1 << 32 else _I64
    kinds = {float: _F32, str: _STRING, list: _ARRAY, bytes: _ARRAY}
    return kinds[type(value)]


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _string(value)
    return _array(value) if kind == _ARRAY else struct.pack(_FORMATS[kind], value)


def _array(values: Sequence[Any] | bytes) -> bytes:
    """Of bytes, or of values of one kind; whole numbers are of 32 bits."""
    if isinstance(values, bytes):
        return struct.pack("<IQ", _U8, len(values)) + values
    kind = _kind(values[0])
    kind = _I32 if kind == _U32 else kind
    head = struct.pack("<IQ", kind, len(values))
    if kind == _STRING:
        return head + b"".join(map(_string, values))
    return head + struct.pack(f"<{len(values)}{_FORMATS[kind][1]}", *values)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
