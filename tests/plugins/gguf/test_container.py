"""GGUF files are read as gguf reads them; damaged ones are refused in one line, whatever is wrong with them."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.gguf.container import read_container
from maxserve.plugins.gguf.files import Gguf
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.tiny_configs import tiny_config


@pytest.fixture(scope="module")
def model() -> Any:
    return randomised(ArchitectureChecks.reference(tiny_config("LlamaForCausalLM", num_hidden_layers=1)))


@pytest.fixture
def tiny(model: Any, write_gguf: Callable[..., None], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, "llama", lambda name: Type.Q8_0)
    return path


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "values.gguf", "llama")
    values = {
        "u8": (200, GGUFValueType.UINT8),
        "i8": (-100, GGUFValueType.INT8),
        "u16": (60000, GGUFValueType.UINT16),
        "i16": (-30000, GGUFValueType.INT16),
        "u32": (4_000_000_000, GGUFValueType.UINT32),
        "i32": (-2_000_000_000, GGUFValueType.INT32),
        "f32": (0.5, GGUFValueType.FLOAT32),
        "bool": (True, GGUFValueType.BOOL),
        "string": ("größer", GGUFValueType.STRING),
        "u64": (1 << 60, GGUFValueType.UINT64),
        "i64": (-(1 << 60), GGUFValueType.INT64),
        "f64": (0.1, GGUFValueType.FLOAT64),
    }
    for name, (value, kind) in values.items():
        writer.add_key_value(f"test.{name}", value, kind)
    lists: dict[str, list[Any]] = {
        "numbers": [1, 2, 3],
        "words": ["a", "bc", ""],
        "floats": [0.25, -1.5],
        "flags": [True, False],
    }
    for name, each in lists.items():
        writer.add_array(f"test.{name}", each)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_container(str(tmp_path / "values.gguf")).metadata
    for name, (value, _) in values.items():
        assert found[f"test.{name}"] == value
    for name, each in lists.items():
        assert found[f"test.{name}"] == each


def test_tensors_lie_where_gguf_finds_them(tiny: Path) -> None:
    ours, theirs = read_container(str(tiny)).tensors, GGUFReader(tiny).tensors
    assert sorted(ours) == sorted(tensor.name for tensor in theirs)
    for tensor in theirs:
        own = ours[tensor.name]
        assert own.type.name == tensor.tensor_type.name
        assert own.shape == tuple(int(size) for size in tensor.shape[::-1])
        assert (own.offset, own.size) == (tensor.data_offset, tensor.n_bytes)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "is damaged"),
        (b"GG", "is damaged"),
        (b"PK\x03\x04" + bytes(60), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "of version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(60), "more than the file has room for"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + bytes(60), "more than the file has room for"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60) + bytes(60), "more than the file has room for"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 99) + bytes(60), "a value of type 99"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2) + b"a\n" + bytes(60), "no name at byte 24"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 4, 1 << 62) + bytes(60),
            "more than the file has room for",
        ),
    ],
)
def test_what_is_no_such_file_is_named(start: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(start)
    with pytest.raises(ModelError, match=message):
        read_container(str(path))


def test_a_cut_file_says_what_is_missing(tiny: Path) -> None:
    content = tiny.read_bytes()
    tiny.write_bytes(content[:-100])
    with pytest.raises(ModelError, match=r"is cut: \d+ bytes of tensor .* are missing; fetch it again"):
        Gguf().open(str(tiny), {})


def everything(path: Path) -> None:
    """What a start reads of a file."""
    format = Gguf()
    format.model_files(str(path))
    file = format.open(str(path), {})
    with file.open() as read:
        for name in file.tensors:
            read(name)


@given(st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_or_harmless(tiny: Path, tmp_path: Path, chance: random.Random) -> None:
    """Cut anywhere, bytes changed in the part that is no tensor: a readable error, and never much memory."""
    content = bytearray(tiny.read_bytes())
    head = min(place.offset for place in read_container(str(tiny)).tensors.values())
    for _ in range(chance.choice((1, 1, 2, 5))):
        content[chance.randrange(head)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        del content[chance.randrange(len(content)) :]
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(content)
    tracemalloc.start()
    try:
        everything(changed)
    except ModelError as error:
        refusal = str(error)
    else:
        refusal = ""
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(refusal.splitlines()) <= 1
    assert len(refusal) < 1000
    assert peak < 40 * len(content) + (1 << 20)
