"""GGUF files: metadata and the places of tensors, as docs/gguf.md of the ggml project describes them.

Nothing in a file is believed: every length is compared with what is left of the file before it is used, and texts and
lists are made only when they are asked for, as they take several times the bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.types import TYPES, TensorType

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_MOST_ALIGNMENT = 1 << 20
_LONGEST_NAME = 200  # in bytes; ggml has 64 for tensors; keys are not much longer
_DEPTH = 4  # of arrays in arrays
_MOST_VALUES = 1 << 24  # of an array; vocabularies have a million


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor: its shape with the slowest axis first, and where its bytes are in the file."""

    type: TensorType
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row along the last axis."""
        return self.shape[-1] // self.type.values * self.type.size


@dataclass(frozen=True, slots=True)
class _Unread:
    """A text or an array whose lengths are right, as it is in the file."""

    kind: int
    content: bytes

    def value(self) -> Any:
        reader = _Reader("", self.content)
        return reader.text() if self.kind == _STRING else reader.values()


class Metadata(Mapping[str, Any]):
    """What a file says, by key. Arrays become lists, and bytes texts, when they are asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Unread):
            value = self._values[key] = value.value()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class Container:
    """What a file says of itself."""

    path: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]


def read_container(path: str) -> Container:
    """The metadata and the tensors of a file; ModelError where it is damaged, cut or of another version."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, size: int, changed: int) -> Container:
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).container()
    except (OSError, ValueError, MemoryError, struct.error) as error:  # an empty file cannot be mapped
        raise _damaged(path, str(error)) from error


def _damaged(path: str, what: str) -> ModelError:
    return ModelError(f"the GGUF file {path} is damaged ({what}); fetch it again")


class _Reader:
    """Reads from the start of a file on."""

    def __init__(self, path: str, data: mmap.mmap | bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    def container(self) -> Container:
        if self._bytes(4) != _MAGIC:
            raise ModelError(f"{self._path} is no GGUF file: it does not begin with GGUF; is it the right file?")
        version = int(self._scalar("<I"))
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "big-endian" if swapped in _VERSIONS else f"of version {version}"
            raise ModelError(f"{self._path} is a GGUF file that is {what}; convert it anew to version 3, little-endian")
        tensors, entries = self._count(24), self._count(13)
        said: dict[str, Any] = {}
        for _ in range(entries):
            key = self._name()
            if key in said:
                raise _damaged(self._path, f"{key} is there twice")
            said[key] = self._value(int(self._scalar("<I")))
        metadata = Metadata(said)
        return Container(path=self._path, metadata=metadata, tensors=self._tensors(tensors, metadata))

    def _tensors(self, count: int, metadata: Mapping[str, Any]) -> dict[str, TensorPlace]:
        found: list[tuple[str, TensorType, tuple[int, ...], int]] = []
        for _ in range(count):
            name, dimensions = self._name(), int(self._scalar("<I"))
            if not 0 < dimensions <= _MOST_DIMENSIONS:
                raise _damaged(self._path, f"tensor {name} has {dimensions} dimensions")
            shape = tuple(int(self._scalar("<Q")) for _ in range(dimensions))[::-1]
            number, offset = int(self._scalar("<I")), int(self._scalar("<Q"))
            if number not in TYPES:
                raise ModelError(f"{self._path}: tensor {name} is of type {number}, which no GGUF file of today has")
            found.append((name, TYPES[number], shape, offset))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT:
            raise _damaged(self._path, f"general.alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        places = {name: self._place(name, type, shape, start + offset) for name, type, shape, offset in found}
        if len(places) < len(found):
            raise _damaged(self._path, "two tensors have one name")
        self._check_apart(places)
        return places

    def _check_apart(self, places: Mapping[str, TensorPlace]) -> None:
        """Raises where bytes are of two tensors: many that share a file would be many times its size."""
        end = 0
        for name, place in sorted(places.items(), key=lambda entry: entry[1].offset):
            if place.offset < end:
                raise _damaged(self._path, f"tensor {name} lies where another one is")
            end = place.offset + place.size

    def _place(self, name: str, type: TensorType, shape: tuple[int, ...], offset: int) -> TensorPlace:
        if not all(shape) or shape[-1] % type.values:
            raise _damaged(self._path, f"tensor {name} is {list(shape)} in blocks of {type.values}")
        size = prod(shape) // type.values * type.size
        missing = offset + size - len(self._data)
        if missing > 0:
            raise ModelError(
                f"the GGUF file {self._path} is cut: {missing} bytes of tensor {name} are missing; fetch it again"
            )
        return TensorPlace(type=type, shape=shape, offset=offset, size=size)

    def values(self) -> list[Any]:
        """Those of an array, in which arrays are lists, too."""
        inner = int(self._scalar("<I"))
        if inner in _SCALARS:
            count, format = int(self._scalar("<Q")), _SCALARS[inner]
            return list(struct.unpack(f"<{count}{format[1]}", self._bytes(count * struct.calcsize(format))))
        count = int(self._scalar("<Q"))
        return [self.text() if inner == _STRING else self.values() for _ in range(count)]

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        start = self._at
        self._pass(kind, _DEPTH)
        return _Unread(kind, self._data[start : self._at])

    def _pass(self, kind: int, depth: int) -> None:
        """Goes behind a value, nothing of which is kept; raises where its lengths are wrong."""
        if kind in _SCALARS:
            self._skip(struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self._skip(self._count(1))
        elif kind != _ARRAY or depth == 0:
            raise _damaged(self._path, f"a value of type {kind} at byte {self._at}")
        else:
            self._pass_array(int(self._scalar("<I")), depth)

    def _pass_array(self, inner: int, depth: int) -> None:
        at, size = self._at, struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 0
        count = self._count(size or 8)
        if count > _MOST_VALUES:
            raise _damaged(self._path, f"an array of {count} values at byte {at}")
        if size:
            self._skip(count * size)
            return
        for _ in range(count):
            self._pass(inner, depth - 1)

    def _scalar(self, format: str) -> Any:
        (value,) = struct.unpack(format, self._bytes(struct.calcsize(format)))
        return value

    def _count(self, least: int) -> int:
        """A number of things of at least that many bytes each."""
        count = int(self._scalar("<Q"))
        if count * least > len(self._data) - self._at:
            raise _damaged(self._path, f"{count} things at byte {self._at} are more than the file has room for")
        return count

    def _name(self) -> str:
        """A key or the name of a tensor: what messages may show."""
        at, length = self._at, self._count(1)
        name = self._text_of(length) if length <= _LONGEST_NAME else ""
        if not name.isprintable() or length > _LONGEST_NAME:
            raise _damaged(self._path, f"no name at byte {at}")
        return name

    def text(self) -> str:
        return self._text_of(self._count(1))

    def _text_of(self, length: int) -> str:
        return self._bytes(length).decode("utf-8", errors="replace")

    def _bytes(self, count: int) -> bytes:
        self._skip(count)
        return self._data[self._at - count : self._at]

    def _skip(self, count: int) -> None:
        if count > len(self._data) - self._at:
            raise _damaged(self._path, f"it ends at byte {len(self._data)}")
        self._at += count
