"""Folders of compressed-tensors with rows of 8-bit floats, written of plain checkpoints.

A weight [outputs, inputs] is `weight` and `weight_scale` [outputs, 1], as LLM Compressor's "float-quantized" has it.
Names of modules say which weights are of projections. A checkpoint with other matrices is refused, since it is not
known whether these are rounded when it is served.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import PlainCheckpoint, Rounds

if TYPE_CHECKING:
    import torch

_SHARD = 4 << 30  # bytes of weights in a file, before they are rounded
_HEAD, _TABLE = "lm_head.weight", "model.embed_tokens.weight"
_PROJECTION = re.compile(
    r"model\.layers\.\d+\.(self_attn\.(q|k|v|o|qkv)_proj"
    r"|mlp(\.experts\.\d+)?\.(gate|up|down|gate_up)_proj"
    r"|block_sparse_moe\.experts\.\d+\.w[123])\.weight"
)
_ROUTER = re.compile(r"(model\.layers\.\d+\.(mlp|block_sparse_moe)\.gate)\.weight")
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".h5")

Tensors = Mapping[str, "torch.Tensor"]


def write_folder(checkpoint: PlainCheckpoint, path: Path, rounds: Rounds) -> None:
    """Writes the weights, rounded where they are of projections, the config that says so, and the tokenizer."""
    rounded, routers = _projections(checkpoint)
    path.mkdir()
    config = {**checkpoint.config, "quantization_config": _settings(routers), "tie_word_embeddings": False}
    for file in checkpoint.folder.iterdir():
        if file.is_file() and file.name != "config.json" and not file.name.endswith(_WEIGHTS):
            shutil.copyfile(file, path / file.name)
    (path / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_shards(path, _shards(checkpoint, rounded), _maker(checkpoint, rounded, rounds))


def _settings(routers: list[str]) -> dict[str, Any]:
    """The "quantization_config"."""
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": "float-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": routers,
        "kv_cache_scheme": None,
    }


def _projections(checkpoint: PlainCheckpoint) -> tuple[dict[str, str], list[str]]:
    """The weights that are rounded, with the tensors that they are read from, and the modules of routers.

    A head that is the table is a weight of its own, as it is when it is rounded while it is loaded.
    """
    rounded, routers = {_HEAD: _TABLE if _is_tied(checkpoint) else _HEAD}, []
    for name, tensor in checkpoint.tensors.items():
        router = _ROUTER.fullmatch(name)
        if router is not None:
            routers.append(router[1])
        elif _PROJECTION.fullmatch(name):
            rounded[name] = name
        elif name not in (_HEAD, _TABLE) and len(tensor.shape) > 1:
            raise ModelError(
                f"{checkpoint.folder}: {name} {list(tensor.shape)} is not known as the weight of a projection, so "
                f"models of {_model(checkpoint)} are not written in float8_e4m3fn; serve this one with "
                "--quantization-encoding float8_e4m3fn instead"
            )
    if _TABLE not in checkpoint.tensors:
        raise ModelError(
            f"{checkpoint.folder} has no {_TABLE}, so models of {_model(checkpoint)} are not written in float8_e4m3fn; "
            "serve this one with --quantization-encoding float8_e4m3fn instead"
        )
    return rounded, routers


def _is_tied(checkpoint: PlainCheckpoint) -> bool:
    return _HEAD not in checkpoint.tensors or bool(checkpoint.config.get("tie_word_embeddings"))


def _model(checkpoint: PlainCheckpoint) -> str:
    return ", ".join(checkpoint.config.get("architectures") or ["an unknown class"])


def _shards(checkpoint: PlainCheckpoint, rounded: Mapping[str, str]) -> list[list[str]]:
    """The names of weights, by the file that they go into."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in dict.fromkeys([*checkpoint.tensors, *rounded]):
        tensor = checkpoint.tensors[rounded.get(name, name)]
        if shards[-1] and size + tensor.size > _SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.size
    return shards


def _maker(checkpoint: PlainCheckpoint, rounded: Mapping[str, str], rounds: Rounds) -> Callable[[str], Tensors]:
    """What gives the tensors of a weight, by the names in the file."""

    def make(name: str) -> Tensors:
        tensor = checkpoint.read(rounded.get(name, name))
        if name not in rounded:
            return {name: tensor.contiguous()}
        try:
            parts = rounds.rounded(tensor)
        except ModelError as error:
            raise ModelError(f"{checkpoint.folder}: {name}: {error}") from error
        return {name: parts["values"].contiguous(), f"{name}_scale": parts["scales"].contiguous()}

    return make


def _write_shards(path: Path, shards: list[list[str]], make: Callable[[str], Tensors]) -> None:
    from safetensors.torch import save_file

    files: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, 1):
        tensors = {key: tensor for name in names for key, tensor in make(name).items()}
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, path / file, metadata={"format": "pt"})
        shutil.copymode(path / "config.json", path / file)  # what safetensors writes is private
        files |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
