"""Checkpoints of NVIDIA's Model Optimizer: NVFP4 and 8-bit floats.

What "quant_algo" says is in config.json, or beside it in hf_quant_config.json under "quantization". In NVFP4 a weight
is `weight` uint8, `weight_scale` and `weight_scale_2`; as 8-bit floats it is `weight` and `weight_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.cache import CacheFactors, CacheLayer
from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo, WeightFile
from maxserve.plugins.quantization.cache_factors import cache_factors
from maxserve.plugins.quantization.fp8 import is_of_cache, scaled_codes, scaled_layout, scaled_shape
from maxserve.plugins.quantization.nvfp4 import LAYOUT, nvfp4_codes, nvfp4_shape
from maxserve.plugins.quantization.parts import FLOATS, Rounded, computed_type, damaged, of_types

if TYPE_CHECKING:
    import torch

_FLOATS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
_NIBBLES = ("NVFP4", "W4A16_NVFP4")
_MIXED = "MIXED_PRECISION"
_BYTES, _HALVES = "float8_e4m3fn", "float4_e2m1fnx2"
_BLOCKS = (128, 128)
_ENDINGS = {"_scale": "scales", "_scale_2": "factor"}
_INPUTS = ".input_scale"  # what inputs were divided by, where they were rounded, too
_SMOOTHED = ".pre_quant_scale"


class Modelopt:
    """A BuiltQuantizationFormat that NamesEncodings, HasCodes, HasCacheFactors and LeavesOut."""

    types = frozenset({"U8", "F8_E4M3"})

    def __init__(self, context: QuantizationContext) -> None:
        self._rounded = Rounded()
        self.dtype = computed_type(context.model_config)
        settings = context.model_config["quantization_config"]
        inner = settings.get("quantization")
        said = inner if isinstance(inner, Mapping) else settings
        algorithm = said.get("quant_algo")
        if said.get("kv_cache_quant_algo") == "FP8":
            self._rounded.cache()
        if algorithm not in (*_FLOATS, *_NIBBLES, _MIXED):
            listed = ", ".join((*_FLOATS, *_NIBBLES))
            raise ModelError(f"'quant_algo' is {algorithm!r:.60}; what is read of Model Optimizer is {listed}")
        self.encoding = _BYTES if algorithm in _FLOATS else _HALVES
        self._blocks = _BLOCKS if algorithm in ("FP8_PB_WO", _MIXED) else None

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        if is_of_cache(tensor):
            return None
        if tensor.endswith(_INPUTS):
            self._rounded.inputs()
            return tensor.removesuffix(_INPUTS) + ".weight", "inputs"
        if tensor.endswith(_SMOOTHED):
            return tensor.removesuffix(_SMOOTHED) + ".weight", "smoothed"
        for ending, role in _ENDINGS.items():
            if tensor.endswith("weight" + ending):
                return tensor.removesuffix(ending), role
        return (tensor, "values") if dtype in self.types and tensor.endswith("weight") else None

    def left_out(self, tensor: str, content: torch.Tensor) -> bool:
        if is_of_cache(tensor):
            self._rounded.cache()
        return is_of_cache(tensor)

    def cache_factors(self, files: Sequence[WeightFile], layers: Sequence[CacheLayer]) -> Mapping[int, CacheFactors]:
        return cache_factors(files, layers)

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        if "smoothed" in tensors:
            raise ModelError(
                "its inputs are to be multiplied by a pre_quant_scale, which is not done; use a checkpoint "
                "without it, in NVFP4 or FP8 for example"
            )
        return nvfp4_shape(tensors) if "factor" in tensors else scaled_shape(_floats(tensors), self._blocks)

    def encoding_of(self, tensors: Mapping[str, TensorInfo]) -> str:
        return _HALVES if "factor" in tensors else _BYTES

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return LAYOUT if "factor" in tensors else scaled_layout(tensors, self._blocks)

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        self._rounded.say()
        if "factor" in tensors:
            return nvfp4_codes(tensors, divided=False)
        return scaled_codes(tensors, self._blocks)


def _floats(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a weight in 8-bit floats; ModelError where they are of another type."""
    values = tensors.get("values")
    if values is not None and values.dtype != "F8_E4M3":
        raise damaged(f"it is part of a quantized weight of type {values.dtype} whose factor is missing")
    of_types(tensors, {"scales": FLOATS})
    return tensors
