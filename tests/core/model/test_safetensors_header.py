from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maxserve.core.errors import ModelError
from maxserve.core.model.safetensors_header import TensorInfo, read_header


def test_tells_type_shape_and_size(tmp_path: Path) -> None:
    file = str(tmp_path / "a.safetensors")
    save_file({"w": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, file, metadata={"format": "pt"})
    assert read_header(file) == {
        "w": TensorInfo(dtype="F32", shape=(2, 3), size=24),
        "b": TensorInfo(dtype="BF16", shape=(4,), size=8),
    }


def test_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(100)}, str(file))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=f"incomplete: {len(whole) - 1} of {len(whole)} bytes; fetch it again"):
        read_header(str(file))


def framed(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no safetensors file"),
        (b"PK\x03\x04" + b"x" * 100, "no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (framed(b"{" * 10), "damaged header"),
        (framed(b"[1, 2]"), "damaged header"),
        (framed(json.dumps({"w": {"dtype": "F32"}}).encode()), "damaged header"),
        (framed(json.dumps({"w": {"dtype": "F32", "shape": "x", "data_offsets": [0, 0]}}).encode()), "damaged header"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        read_header(str(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.safetensors cannot be read: No such file"):
        read_header(str(tmp_path / "gone.safetensors"))
