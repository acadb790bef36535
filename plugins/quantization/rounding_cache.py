"""Rounded weights kept in a folder: by what they were before and what rounded them, a plugin in one version.

An entry is a file of its own, written beside its place and put there whole. It begins with a digest of the rest: one
that is damaged is not used, and made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxserve.interfaces.errors import ModelError

_VERSION = 1  # of the entries
_DIGEST = hashlib.sha256().digest_size

log = logging.getLogger("maxserve.model")


class RoundingCache:
    """The weights in a folder that something rounded, named `by`; ModelError where nothing can be written there."""

    def __init__(self, folder: str, by: str) -> None:
        self._folder, self._by = Path(folder).expanduser(), by
        self._found = self._added = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise ModelError(f"--cache-quantized {folder}: nothing can be written there ({error.strerror})") from error

    def find(self, encoding: str, rows: Tensor) -> dict[str, Tensor] | None:
        """The tensors, by role, that these rows were rounded to; None where they are not there."""
        path = self._path(encoding, rows)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s): the weight is rounded again", path, error.strerror)
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            log.warning("%s is damaged: the weight is rounded again", path)
            return None
        self._found += 1
        return _tensors(content)

    def add(self, encoding: str, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Keeps what rows were rounded to; a folder that is full is no reason not to serve."""
        path = self._path(encoding, rows)
        body = _header(tensors) + b"".join(_bytes(tensor) for tensor in tensors.values())
        try:
            path.parent.mkdir(exist_ok=True)
            number, name = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(hashlib.sha256(body).digest())
                    file.write(body)
                Path(name).replace(path)
            except OSError:
                with suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            log.warning("%s cannot be written (%s): a later start rounds the weight again", path, error.strerror)
            return
        self._added += 1

    def text(self) -> str:
        """How many weights were there, and how many are there now, too."""
        return f"{self._found} weights were in {self._folder}, {self._added} are added"

    def _path(self, encoding: str, rows: Tensor) -> Path:
        digest = hashlib.sha256(f"{_VERSION} {self._by} {encoding} {rows.dtype} {list(rows.shape)} ".encode())
        digest.update(_bytes(rows))
        name = digest.hexdigest()
        return self._folder / name[:2] / name


def _bytes(tensor: Tensor) -> bytes:
    content: bytes = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return content


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    told = [[role, str(each.dtype).removeprefix("torch."), list(each.shape)] for role, each in tensors.items()]
    header = json.dumps(told).encode()
    return len(header).to_bytes(8, "little") + header


def _tensors(content: bytes) -> dict[str, Tensor]:
    start = _DIGEST + 8
    end = start + int.from_bytes(content[_DIGEST:start], "little")
    entries: list[Any] = json.loads(content[start:end])
    found, data = {}, bytearray(content)
    for role, dtype, shape in entries:
        kind: torch.dtype = getattr(torch, dtype)
        count = torch.Size(shape).numel()
        found[role] = torch.frombuffer(data, dtype=torch.uint8, offset=end, count=count * kind.itemsize)
        found[role] = found[role].clone().view(kind).view(shape)
        end += count * kind.itemsize
    return found
