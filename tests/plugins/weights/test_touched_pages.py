"""What of a checkpoint's files a rank reads: its part, and little more."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.shard import Shard
from maxserve.core.loading.storage import LinearStorage
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.safetensors.header import read_header
from maxserve.plugins.weights.weights import load_weights
from maxserve.testing.architecture import randomised
from maxserve.testing.tiny_configs import model_class, tiny_config

MOST = 0.55  # of the pages of a file, for one of two ranks
SIZES = {"hidden_size": 128, "intermediate_size": 32768, "vocab_size": 4096, "num_hidden_layers": 1}
BY_INPUTS = ("o_proj.weight", "down_proj.weight")


class Watched:
    """A WeightFile of one mapping, of which the kernel reads what is touched and no page ahead."""

    def __init__(self, path: Path) -> None:
        self.path, self.tensors = str(path), read_header(str(path))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(self._start - 8))
        self._map.madvise(mmap.MADV_RANDOM)
        self._at = {name: each["data_offsets"] for name, each in header.items() if name != "__metadata__"}

    def is_mapped(self, name: str) -> bool:
        return True

    @contextmanager
    def open(self) -> Iterator[Callable[..., torch.Tensor]]:
        def read(name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
            start, stop = self._at[name]
            flat = torch.frombuffer(
                self._map, dtype=torch.float32, count=(stop - start) // 4, offset=self._start + start
            )
            tensor = flat.view(self.tensors[name].shape)
            return tensor if rows is None else tensor[slice(*rows)]

        yield read

    def share_in_memory(self) -> float:
        pages = (ctypes.c_ubyte * -(-len(self._map) // mmap.PAGESIZE))()
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(self._map)), pages) == 0
        return sum(page & 1 for page in pages) / len(pages)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with what ranks share by inputs in a file of its own."""
    folder = tmp_path_factory.mktemp("touched")
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"], **SIZES)
    randomised(model_class("LlamaForCausalLM")(config)).save_pretrained(folder)  # type: ignore[operator]
    whole = load_file(folder / "model.safetensors")
    by_inputs = {name: each for name, each in whole.items() if name.endswith(BY_INPUTS)}
    save_file(by_inputs, folder / "by_inputs.safetensors")
    save_file({name: each for name, each in whole.items() if name not in by_inputs}, folder / "by_outputs.safetensors")
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("method", ["", pytest.param("native", marks=pytest.mark.compiler)], ids=["mapped", "copied"])
def test_a_rank_touches_its_part_of_the_files(folder: Path, method: str, rank: int, tmp_path: Path) -> None:
    """Also where weights are copied; of what is shared by inputs, rows are read by halves where they are long."""
    host: Any = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    entry = host.architectures.get("LlamaForCausalLM")
    spec = host.load(entry, entry.component.config)(json.loads((folder / "config.json").read_text()))
    names = ("by_outputs.safetensors", "by_inputs.safetensors")
    files = [Watched(Path(shutil.copyfile(folder / name, tmp_path / name))) for name in names]
    if any(file.share_in_memory() > 0.05 for file in files):
        pytest.skip("the files cannot be put out of memory here")
    with torch.device("meta"):
        model = host.build(entry, spec)
    context = LinearContext(compute=torch.float32, device=torch.device("cpu"))
    storage = LinearStorage(method=host.build(host.linear_methods.get(method), context)) if method else None
    load_weights(
        model,
        files,
        entry.component.weights,
        dtype=torch.float32,
        device="cpu",
        progress=NullProgress(),
        storage=storage,
        shard=Shard(rank=rank, size=2),
    )
    for file in files:
        assert 0.4 < file.share_in_memory() <= MOST, file.path
