"""A quantization format of two nibbles a byte, and a linear method that multiplies by them: stubs for both seams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.linear import LinearContext, LinearMethod
from maxserve.core.interfaces.quantization import BuiltQuantizationFormat, QuantizationContext, QuantizationFormat

__all__ = ["NibbleFormat", "NibbleLinear", "NibbleMethod", "nibble_plugin", "quantize_checkpoint"]

ROLES = ("codes", "scale", "zero")


def quantize(weight: Tensor) -> dict[str, Tensor]:
    """The tensors of a weight [outputs, inputs] by role: sixteen levels between the least and the most of each row."""
    zero, top = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    scale = ((top - zero) / 15).clamp(min=1e-9)
    levels = ((weight - zero) / scale).round().to(torch.uint8)
    return {"codes": levels[:, ::2] | levels[:, 1::2] << 4, "scale": scale, "zero": zero}


def dequantize(tensors: Mapping[str, Tensor]) -> Tensor:
    levels = torch.stack((tensors["codes"] & 15, tensors["codes"] >> 4), dim=-1).flatten(-2)
    return levels * tensors["scale"] + tensors["zero"]


def quantize_checkpoint(folder: Path, ending: str = "_proj.weight") -> dict[str, Tensor]:
    """Puts the weights of the checkpoint whose names end so in the format; returns what they are then."""
    file, config = folder / "model.safetensors", folder / "config.json"
    stored = load_file(file)
    meant = {}
    for name in [name for name in stored if name.endswith(ending)]:
        tensors = quantize(stored.pop(name).float())
        stored |= {f"{name}.{role}": tensor.contiguous() for role, tensor in tensors.items()}
        meant[name] = dequantize(tensors)
    save_file(stored, file)
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(raw | {"quantization_config": {"quant_method": "nibbles"}}))
    return meant


class NibbleFormat:
    """A BuiltQuantizationFormat: a weight is `NAME.codes`, `NAME.scale` and `NAME.zero`."""

    dtype = "F32"
    types = frozenset({"U8"})

    def __init__(self, context: QuantizationContext) -> None:
        pass

    def weight(self, tensor: str, dtype: str) -> str | None:
        name, _, role = tensor.rpartition(".")
        return name if role in ROLES else None

    def tensors(self, weight: str) -> Mapping[str, str]:
        return {role: f"{weight}.{role}" for role in ROLES}

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        rows, columns = shapes["codes"]
        return rows, 2 * columns

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return dequantize(tensors)


class NibbleLinear:
    """A QuantizedLinear that has the nibbles alone."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.tensors = {
            "codes": torch.zeros(outputs, inputs // 2, dtype=torch.uint8),
            "scale": torch.zeros(outputs, 1),
            "zero": torch.zeros(outputs, 1),
        }

    def load_quantized(self, tensors: Mapping[str, Tensor], first: int) -> None:
        for role, tensor in tensors.items():
            self.tensors[role][first : first + len(tensor)] = tensor

    def load_rows(self, rows: Tensor, first: int) -> None:
        self.load_quantized(quantize(rows), first)

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, dequantize(self.tensors), bias)


class NibbleMethod:
    """A BuiltLinearMethod that stores weights only where they are nibbles in the checkpoint."""

    def __init__(self, context: LinearContext) -> None:
        self.created: list[NibbleLinear] = []

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        return torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        return None

    def create_quantized(
        self, name: str, format: BuiltQuantizationFormat, outputs: int, inputs: int
    ) -> NibbleLinear | None:
        if name != "nibbles":
            return None
        self.created.append(NibbleLinear(outputs, inputs))
        return self.created[-1]


def nibble_plugin(method: NibbleMethod | None = None) -> SimpleNamespace:
    """A plugin with the format, and with the linear method if one is given."""
    plugin = SimpleNamespace(
        maxserve_quantization_formats=hookimpl(lambda: [QuantizationFormat(name="nibbles", build=NibbleFormat)])
    )
    if method is not None:
        declared = LinearMethod(name="nibbles", build=lambda context: method, priority=99)
        plugin.maxserve_linear_methods = hookimpl(lambda: [declared])
    return plugin
