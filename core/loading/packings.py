"""Weights that a checkpoint keeps in fewer bits than they are served in: which tensors belong together?

What comes out of them is computed while they are loaded (plugins/quantization/mxfp4.py, fp8.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.safetensors_header import TensorInfo
from maxserve.core.registry.entries import load_ref

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.architecture import Architecture


class Packing(Protocol):
    """A way of packing a weight into two tensors, whose names are the weight's with an ending each.

    `types` are those of packed tensors as safetensors names them.
    """

    values: str
    scales: str
    types: frozenset[str]

    def shape(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the weight whose values are stored in that shape."""
        ...

    def unpack(self, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The weight, or entry of a stacked one, in bfloat16."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Where the second tensor of a packed weight is."""

    file: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The tensor `name` of a checkpoint that holds the weight `weight`, itself unless it is packed.

    `dtype` and `shape` are those of the weight once unpacked, `size` the bytes in the file.
    """

    file: str
    name: str
    weight: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    scales: Scales | None = None


def packing_of(config: Mapping[str, Any], architecture: Architecture, ref: str) -> Packing | None:
    """How the checkpoint of `config`, the content of config.json, is packed; None if it is not.

    ModelError where the architecture does not know that way of quantizing.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
    if method not in architecture.packings:
        known = ", ".join(sorted(architecture.packings))
        raise ModelError(
            f"{ref} is quantized ({method}), which is not supported yet; use an unquantized checkpoint"
            + (f", or one quantized as {architecture.name} can be: {known}" if known else "")
        )
    packing: Packing = load_ref(architecture.packings[method])(quantization)
    return packing


def listed(headers: Mapping[str, Mapping[str, TensorInfo]], packing: Packing | None) -> Iterator[Stored]:
    """The weights of a checkpoint; ModelError where a packed one lacks its scales, or these their weight."""
    scales = {} if packing is None else _scales(headers, packing)
    for file, header in headers.items():
        for name, tensor in header.items():
            if name in scales:
                continue
            if packing is None or tensor.dtype not in packing.types:
                yield Stored(
                    file=file, name=name, weight=name, dtype=tensor.dtype, shape=tensor.shape, size=tensor.size
                )
            else:
                weight = name.removesuffix(packing.values)
                yield _packed(file, name, weight, tensor, packing, scales.get(weight + packing.scales))
    if packing is not None:
        _check_owned(headers, scales, packing)


def _packed(file: str, name: str, weight: str, tensor: TensorInfo, packing: Packing, scales: Scales | None) -> Stored:
    if scales is None:
        raise ModelError(f"{name} in {file} is packed, but there is no {weight + packing.scales}; fetch it again")
    shape = packing.shape(tensor.shape)
    return Stored(file=file, name=name, weight=weight, dtype="BF16", shape=shape, size=tensor.size, scales=scales)


def _scales(headers: Mapping[str, Mapping[str, TensorInfo]], packing: Packing) -> dict[str, Scales]:
    return {
        name: Scales(file=file, name=name)
        for file, header in headers.items()
        for name in header
        if name.endswith(packing.scales)
    }


def _check_owned(
    headers: Mapping[str, Mapping[str, TensorInfo]], scales: Mapping[str, Scales], packing: Packing
) -> None:
    names = {name for header in headers.values() for name in header}
    for name, place in scales.items():
        values = name.removesuffix(packing.scales) + packing.values
        if values not in names:
            raise ModelError(f"{name} in {place.file} belongs to no weight: there is no {values}; fetch it again")
