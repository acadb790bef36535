"""GGUF files are read as gguf reads them; damaged ones are refused in one line, whatever is wrong with them."""

from __future__ import annotations

import mmap
import random
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from maxserve.core.interfaces.errors import MaxserveError, ModelError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.gguf.container import _Reader, read_container
from maxserve.plugins.gguf.files import Gguf
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served
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


@pytest.mark.parametrize("what", ["name", "text", "words", "numbers"])
def test_a_length_that_takes_in_the_whole_file_costs_no_memory(what: str, tmp_path: Path) -> None:
    """Texts and lists take several times the bytes: none are made of a file that turns out to be damaged."""
    path, size = tmp_path / "model.gguf", 1 << 21
    key = struct.pack("<Q", 1) + b"a"
    starts = {
        "name": struct.pack("<Q", size),
        "text": key + struct.pack("<IQ", 8, size),
        "words": key + struct.pack("<IIQ", 9, 8, size // 8),
        "numbers": key + struct.pack("<IIQ", 9, 0, size),
    }
    filled = {"name": b"a" * size, "text": b"\xff" * size, "words": bytes(size), "numbers": b"\xff" * size}
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + starts[what] + filled[what] + b"\xff" * 100)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="is damaged"):
            read_container(str(path))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_an_array_of_more_values_than_any_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    count = (1 << 24) + 1
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 8, count))
        file.truncate(1 << 28)
    with pytest.raises(ModelError, match=rf"an array of {count} values at byte 41"):
        read_container(str(path))


def everything(path: Path) -> None:
    """What a start reads of a file."""
    format = Gguf()
    format.model_files(str(path))
    file = format.open(str(path), {})
    with file.open() as read:
        for name in file.tensors:
            read(name)


class Lengths(_Reader):
    """Notes where in a file the numbers are that say how much follows."""

    def __init__(self, path: str, data: mmap.mmap) -> None:
        super().__init__(path, data)
        self.found: list[int] = []

    def _count(self, least: int) -> int:
        self.found.append(self._at)
        return super()._count(least)


def lengths(path: Path) -> list[int]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = Lengths(str(path), data)
        reader.container()
        return reader.found


def damaged(content: bytes, head: int, counts: Sequence[int], chance: random.Random) -> bytes:
    """The file cut anywhere; or bits flipped, bytes set, or lengths grown in the part that is no tensor."""
    changed, kind = bytearray(content), chance.randrange(5)
    if kind == 0:
        del changed[chance.randrange(len(content)) :]
    elif kind == 1:
        at = chance.choice(counts)
        grown = int.from_bytes(changed[at : at + 8], "little") + (1 << chance.randrange(63))
        changed[at : at + 8] = min(grown, (1 << 64) - 1).to_bytes(8, "little")
    elif kind == 2:
        for _ in range(chance.choice((1, 1, 2, 5))):
            changed[chance.randrange(head)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    else:
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(head)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_damage_is_refused_or_harmless(tiny: Path, tmp_path: Path) -> None:
    """2000 files: a readable error or a model, and never memory for more than the file twice over."""
    content, chance = tiny.read_bytes(), random.Random(7)
    head = min(place.offset for place in read_container(str(tiny)).tensors.values())
    counts, changed, refused = lengths(tiny), tmp_path / "changed.gguf", 0
    everything(tiny)
    tracemalloc.start()
    try:
        for _ in range(2000):
            changed.write_bytes(damaged(content, head, counts, chance))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            message = refusal(changed)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 2 * len(content) + (1 << 18), message
            refused += bool(message)
    finally:
        tracemalloc.stop()
    assert 500 < refused < 1900


def refusal(path: Path) -> str:
    """Why a file is refused, in one line; nothing where it is read."""
    message = ""
    try:
        everything(path)
    except ModelError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert len(message) < 1000
    return message


def test_what_is_read_of_damaged_files_is_served_or_refused(tiny: Path, tmp_path: Path) -> None:
    """Numbers that are wrong, but can be read, are found out while the model is built."""
    content, chance = tiny.read_bytes(), random.Random(3)
    head = min(place.offset for place in read_container(str(tiny)).tensors.values())
    host, counts, served = PluginHost.discover(PluginOptions(autoload=False), strict=True), lengths(tiny), 0
    for number in range(400):
        changed = tmp_path / f"changed-{number}.gguf"
        changed.write_bytes(damaged(content, head, counts, chance))
        config = config_read(changed)
        if config is None or config == config_read(tiny):
            continue
        with suppress(MaxserveError):
            answer = Served(changed, host, use_subgraphs=False).answers([[5, 6, 7]], 2)[0]
            assert answer.error is not None or len(answer.tokens) <= 2
            served += 1
        if served == 8:
            break
    assert served


def config_read(path: Path) -> bytes | None:
    try:
        return Gguf().model_files(str(path))["config.json"]
    except ModelError:
        return None


def test_tensors_that_share_bytes_are_damage(tiny: Path) -> None:
    """Many that each claim the whole file would be many times its size."""
    container = read_container(str(tiny))
    content = bytearray(tiny.read_bytes())
    name = b"blk.0.ffn_down.weight"
    at = content.index(name) + len(name) + 4 + 16 + 4
    content[at : at + 8] = bytes(8)
    tiny.write_bytes(content)
    assert container.tensors[name.decode()].offset
    with pytest.raises(ModelError, match=r"is damaged \(tensor .* lies where another one is\)"):
        read_container(str(tiny))
