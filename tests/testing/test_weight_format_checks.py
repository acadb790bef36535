"""The checks of weight formats take what is right and find what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.weight_format import ReadsTensor, TensorInfo, WeightFormat, WeightQuery
from maxserve.testing.weight_format import CrateFile, CrateFormat, WeightFormatChecks, write_crate


class TestSafetensors(WeightFormatChecks):
    weight_format = "safetensors"
    types: ClassVar[Sequence[str]] = ("F64", "F32", "BF16", "F16", "I64", "I32", "U8", "BOOL")

    def write(self, folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> Sequence[str]:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
        return ["model.safetensors"]


class TestCrate(WeightFormatChecks):
    component = WeightFormat(name="crate", build=CrateFormat, suffixes=(".crate",))

    def write(self, folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> Sequence[str]:
        write_crate(folder / "model.crate", tensors, files)
        return ["model.crate"]


class Npz:
    """A format that maps nothing and holds no config."""

    def __init__(self, context: Context) -> None:
        pass

    def choose(self, query: WeightQuery) -> list[str]:
        return sorted(name for name in query.names if name.endswith(".npz"))

    def open(self, path: str, config: Mapping[str, Any]) -> NpzFile:
        return NpzFile(path)


class NpzFile:
    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with Path(path).open("rb") as stream, np.load(stream) as arrays:
                self.tensors = {
                    name: TensorInfo(dtype={"f4": "F32", "f2": "F16"}[array.dtype.str[1:]], shape=array.shape, size=1)
                    for name, array in arrays.items()
                }
        except Exception as error:
            raise ModelError(f"{path} is damaged: {error}") from error

    def is_mapped(self, name: str) -> bool:
        return False

    @contextmanager
    def open(self) -> Iterator[ReadsTensor]:
        with np.load(self.path) as arrays:

            def read(name: str, rows: tuple[int, int] | None = None) -> Tensor:
                return torch.from_numpy(arrays[name] if rows is None else arrays[name][slice(*rows)])

            yield read


class TestNpz(WeightFormatChecks):
    component = WeightFormat(name="npz", build=Npz, suffixes=(".npz",))
    types = ("F32", "F16")

    def write(self, folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> Sequence[str]:
        np.savez_compressed(
            folder / "model.npz", allow_pickle=False, **{name: tensor.numpy() for name, tensor in tensors.items()}
        )
        return ["model.npz"]


class Forgetful(CrateFormat):
    """Opens files that give all rows."""

    def open(self, path: str, config: Mapping[str, Any]) -> CrateFile:
        return WholeFile(path, config)


class WholeFile(CrateFile):
    @contextmanager
    def open(self) -> Iterator[ReadsTensor]:
        with super().open() as read:
            yield lambda name, rows=None: read(name)


def test_a_format_that_ignores_rows_is_found(plugin_host: Any, tmp_path: Path) -> None:
    tensors = {"w": torch.arange(24.0).view(12, 2)}
    write_crate(tmp_path / "m.crate", tensors, {"config.json": b"{}"})
    with pytest.raises(AssertionError):
        WeightFormatChecks().test_rows_come_out([Forgetful().open(str(tmp_path / "m.crate"), {"a": 1})], tensors)
