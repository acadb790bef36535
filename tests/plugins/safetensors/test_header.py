from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.weight_format import TensorInfo
from maxserve.plugins.safetensors.header import read_header


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


def described(**entry: object) -> bytes:
    return framed(json.dumps({"w": {"dtype": "F32", **entry}}).encode()) + b"\0" * 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no safetensors file"),
        (b"PK\x03\x04" + b"x" * 100, "no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (framed(b"{" * 10), "damaged header"),
        (framed(b"[1, 2]"), "damaged header"),
        (framed(json.dumps({"w": {"dtype": "F32"}}).encode()), "damaged header"),
        (described(shape="x", data_offsets=[0, 0]), "damaged header"),
        (described(shape=[2], data_offsets=[0, 4]), "damaged header"),  # numbers that do not go together
        (described(shape=[10**12, 10**12], data_offsets=[0, 4]), "damaged header"),
        (described(shape=[-1], data_offsets=[0, -4]), "damaged header"),
        (described(shape=[1], data_offsets=[4, 0]), "damaged header"),
        (described(shape=[1], data_offsets=[True, 4]), "damaged header"),
        (described(shape=[1], data_offsets=[0.0, 4.0]), "damaged header"),
        (described(shape=[1], data_offsets=[10**15, 10**15 + 4]), "incomplete"),
        (framed(b'{"w": 1}'), "damaged header"),
        (framed(b"[" * 50_000 + b"]" * 50_000), "damaged header"),
        (framed(b'{"w": ' + b"9" * 5000 + b"}"), "damaged header"),
        (struct.pack("<Q", 90_000_000) + b"{}", "incomplete: its header alone has 90000000 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "no safetensors file"),
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
