"""Checks of weight formats; and a format of single files that hold a model's config, too: a stub for the seam.

class TestAcme(WeightFormatChecks):
    weight_format = "acme"

    def write(self, folder, tensors, files):
        ...  # writes model.acme
        return ["model.acme"]
"""

from __future__ import annotations

import base64
import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.weight_format import (
    BuiltWeightFormat,
    ReadsTensor,
    SupportsModelFiles,
    TensorInfo,
    WeightFile,
    WeightFormat,
    WeightQuery,
)
from maxserve.core.registry.protocol import Host
from maxserve.testing.quantization import PROMPT, tiny_llama
from maxserve.testing.resolve import declaring, resolve

__all__ = ["CrateFile", "CrateFormat", "WeightFormatChecks", "crate_plugin", "model_contents", "write_crate"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightFormatChecks:
    """Subclass it and name a registered `weight_format`, or give the `component` itself.

    `write` is to be written: it makes files of `tensors`, which have the names of a Hugging Face checkpoint, in
    `folder`, and returns their names. `files` are the contents of config.json and others by name, which a format that
    holds them writes, too. `types` are the types of tensors that the format has.
    """

    weight_format: ClassVar[str] = ""
    component: ClassVar[WeightFormat | None] = None
    types: ClassVar[Sequence[str]] = ("F32", "BF16", "F16")

    def write(self, folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> Sequence[str]:
        raise NotImplementedError(f"{type(self).__name__} has no write(folder, tensors, files)")

    @pytest.fixture
    def host(self, plugin_host: Callable[..., Host]) -> Host:
        return declaring(plugin_host, self.component)

    @pytest.fixture
    def declared(self) -> WeightFormat:
        return resolve(WeightFormat, self.weight_format, self.component)

    @pytest.fixture
    def built(self, host: Host, declared: WeightFormat) -> BuiltWeightFormat:
        built: BuiltWeightFormat = host.build(host.of(WeightFormat).get(declared.name), Context())
        return built

    @pytest.fixture
    def tensors(self) -> dict[str, Tensor]:
        """A tensor of each type, as checkpoints have them."""
        numbers = torch.arange(-90, 90).view(12, 15)
        return {f"model.layers.{i}.{name}": numbers.to(DTYPES[name]) for i, name in enumerate(self.types)}

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """The folder of a small model in safetensors."""
        tiny_llama(tmp_path / "model", "F32")
        return tmp_path / "model"

    @pytest.fixture
    def opened(
        self, built: BuiltWeightFormat, tensors: dict[str, Tensor], model: Path, tmp_path: Path
    ) -> list[WeightFile]:
        (tmp_path / "written").mkdir()
        names = self.write(tmp_path / "written", tensors, model_contents(model))
        return [built.open(str(tmp_path / "written" / name), {}) for name in names]

    def test_what_was_written_is_chosen(
        self, built: BuiltWeightFormat, declared: WeightFormat, tensors: dict[str, Tensor], model: Path, tmp_path: Path
    ) -> None:
        (folder := tmp_path / "written").mkdir()
        names = self.write(folder, tensors, model_contents(model))
        assert all(name.endswith(declared.suffixes) for name in names), f"{names}: not the declared {declared.suffixes}"
        assert sorted(built.choose(_query(folder))) == sorted(names)

    def test_nothing_is_chosen_where_there_is_nothing(self, built: BuiltWeightFormat, tmp_path: Path) -> None:
        for name in ("config.json", "pytorch_model.bin", "README.md"):
            (tmp_path / name).touch()
        assert list(built.choose(_query(tmp_path))) == []

    def test_tensors_are_described(self, opened: list[WeightFile], tensors: dict[str, Tensor]) -> None:
        found = {name: info for file in opened for name, info in file.tensors.items()}
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (NAMES[tensor.dtype], tuple(tensor.shape)), name
            assert found[name].size > 0, f"{name} has no size"

    def test_tensors_come_out(
        self, opened: list[WeightFile], built: BuiltWeightFormat, tensors: dict[str, Tensor]
    ) -> None:
        """Once the file is closed, too."""
        found = {name: tensor for file in opened for name, tensor in _read_all(built, file.path).items()}
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name

    def test_rows_come_out(self, opened: list[WeightFile], tensors: dict[str, Tensor]) -> None:
        for file in opened:
            with file.open() as read:
                for name in file.tensors:
                    assert torch.equal(read(name, (3, 7)), tensors[name][3:7]), name

    def test_a_file_that_is_cut_is_refused(self, opened: list[WeightFile], built: BuiltWeightFormat) -> None:
        path = Path(opened[-1].path)
        content = path.read_bytes()
        for length in (len(content) - 1, len(content) // 2, 9, 0):
            path.write_bytes(content[:length])
            with pytest.raises(ModelError):
                _read_all(built, str(path))

    def test_a_model_answers_as_from_safetensors(
        self, host: Host, built: BuiltWeightFormat, model: Path, tmp_path: Path
    ) -> None:
        """A folder with files of the format and, where these hold a config, such a file by itself."""
        from maxserve.testing.served import Served

        (folder := tmp_path / "written").mkdir()
        contents = model_contents(model)
        names = self.write(folder, load_file(model / "model.safetensors"), contents)
        refs = [folder]
        if isinstance(built, SupportsModelFiles):
            refs += [folder / names[0]] if len(names) == 1 else []
        else:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        (expected,) = Served(model, host).answers([PROMPT], 6)
        for ref in refs:
            (answer,) = Served(ref, host).answers([PROMPT], 6)
            assert (answer.tokens, answer.logprobs) == (expected.tokens, expected.logprobs), str(ref)


def _read_all(built: BuiltWeightFormat, path: str) -> dict[str, Tensor]:
    file = built.open(path, {})
    with file.open() as read:
        return {name: read(name) for name in file.tensors}


def model_contents(folder: Path) -> dict[str, bytes]:
    """The files of a model beside its weights."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".safetensors"}


def _query(folder: Path) -> WeightQuery:
    names = [file.name for file in folder.iterdir()]
    return WeightQuery(ref=str(folder), names=names, fetch=lambda name: str(folder / name))


MAGIC = b"CRATE"
# Names in the file and in Hugging Face's checkpoints of the architectures that are known here.
RENAMES = {"LlamaForCausalLM": ((r"^model\.layers\.(\d+)\.", r"^blk\.(\d+)\.", r"blk.\1.", r"model.layers.\1."),)}


def write_crate(path: Path, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> None:
    """Writes a file that holds tensors and the files of a model."""
    config, data, entries = json.loads(files["config.json"]), b"", {}
    for name, tensor in tensors.items():
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        data += bytes(-len(data) % 64)
        entry = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "start": len(data), "size": len(content)}
        entries[_renamed(name, config, theirs=True)] = entry
        data += content
    encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
    header = json.dumps({"tensors": entries, "files": encoded}).encode()
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % 64)  # tensors are aligned in the file, too
    path.write_bytes(MAGIC + len(header).to_bytes(8, "little") + header + data)


def _renamed(name: str, config: Mapping[str, Any], *, theirs: bool) -> str:
    for ours, in_file, to_file, to_ours in RENAMES.get((config.get("architectures") or [""])[0], ()):
        name = re.sub(ours, to_file, name) if theirs else re.sub(in_file, to_ours, name)
    return name


class CrateFormat:
    """A BuiltWeightFormat: MAGIC, the length of a header, the header as JSON, and the tensors."""

    def __init__(self, context: Context | None = None) -> None:
        pass

    def choose(self, query: WeightQuery) -> list[str]:
        return sorted(name for name in query.names if name.endswith(".crate"))[:1]

    def open(self, path: str, config: Mapping[str, Any]) -> CrateFile:
        return CrateFile(path, config or json.loads(self.model_files(path)["config.json"]))

    def model_files(self, path: str) -> Mapping[str, bytes]:
        header, _ = _header(path)
        return {name: base64.b64decode(content) for name, content in header["files"].items()}


class CrateFile:
    """A WeightFile, mapped into memory."""

    def __init__(self, path: str, config: Mapping[str, Any]) -> None:
        self.path = path
        header, self._start = _header(path)
        self._entries = {_renamed(name, config, theirs=False): entry for name, entry in header["tensors"].items()}
        self.tensors = {
            name: TensorInfo(dtype=entry["dtype"], shape=tuple(entry["shape"]), size=entry["size"])
            for name, entry in self._entries.items()
        }
        end = self._start + max((entry["start"] + entry["size"] for entry in self._entries.values()), default=0)
        if Path(path).stat().st_size < end:
            raise ModelError(f"{path} is incomplete; fetch it again")

    def is_mapped(self, name: str) -> bool:
        return True

    @contextmanager
    def open(self) -> Iterator[ReadsTensor]:
        with Path(self.path).open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)  # the tensors hold it

        def read(name: str, rows: tuple[int, int] | None = None) -> Tensor:
            entry = self._entries[name]
            dtype, start = DTYPES[entry["dtype"]], self._start + entry["start"]
            tensor = torch.frombuffer(mapped, dtype=torch.uint8, offset=start, count=entry["size"]).view(dtype)
            tensor = tensor.view(entry["shape"])
            return tensor if rows is None else tensor[slice(*rows)]

        yield read


def _header(path: str) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its tensors start."""
    with Path(path).open("rb") as stream:
        magic, length = stream.read(len(MAGIC)), int.from_bytes(stream.read(8), "little")
        content = stream.read(length)
    if magic != MAGIC or len(content) < length:
        raise ModelError(f"{path} is no crate, or a damaged one; fetch it again")
    header: dict[str, Any] = json.loads(content)
    start = len(MAGIC) + 8 + length
    return header, start


def crate_plugin() -> SimpleNamespace:
    """A plugin with the format."""
    declared = WeightFormat(name="crate", build=CrateFormat, suffixes=(".crate",))
    return SimpleNamespace(maxserve_weight_formats=hookimpl(lambda: [declared]))
