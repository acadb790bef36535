"""Checkpoints of compressed-tensors, as LLM Compressor writes them: several ways to hold weights, by module.

"config_groups" say which modules are meant, by name, pattern ("re:…") or class, and how: `pack-quantized` whole numbers
in words of 32 bits, `int-quantized`, `float-quantized` and `naive-quantized` ones of a byte each, 4-bit floats in
`nvfp4-pack-quantized` and `mxfp4-pack-quantized`. The roles of tensors say the group of their module.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.cache import CacheFactors, CacheLayer
from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo, WeightFile
from maxserve.plugins.quantization.cache_factors import cache_factors
from maxserve.plugins.quantization.fp8 import Blocks, blocks_of, is_of_cache, scaled_codes, scaled_layout, scaled_shape
from maxserve.plugins.quantization.mxfp4 import TABLE, powers_of_two
from maxserve.plugins.quantization.nvfp4 import DIVIDED, neighbours, nvfp4_codes, nvfp4_shape
from maxserve.plugins.quantization.parts import (
    FLOATS,
    INDICES,
    WORD,
    WORDS,
    Rounded,
    computed_type,
    damaged,
    fields,
    group_size,
    listed,
    of_types,
    order_of,
    require,
    shared_by,
)

if TYPE_CHECKING:
    import torch

log = logging.getLogger("maxserve.model")

PACKED, NVFP4, MXFP4, DENSE = "pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "dense"
BYTES = ("int-quantized", "float-quantized", "naive-quantized")
_READ = (PACKED, *BYTES, NVFP4, MXFP4)
_ROLES = (
    *("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale"),
    *("input_scale", "input_zero_point", "input_global_scale"),  # of inputs that are rounded, which is not done
)
_INPUTS = _ROLES[-3:]
_PACKED_TYPES = {
    "weight_packed": WORDS,
    "weight_scale": FLOATS,
    "weight_shape": INDICES,
    "weight_zero_point": WORDS,
    "weight_g_idx": INDICES,
}
_BYTES = {"I8": "int", "F8_E4M3": "float"}
_MX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the modules of a group hold their weights."""

    targets: tuple[str, ...]
    format: str
    bits: int
    group: int = -1
    blocks: Blocks = None

    def names(self, module: str) -> bool:
        """Whether a target is the name of the module, or a pattern of it; classes are not known."""
        return any(_matches(target, module) for target in self.targets)


class CompressedTensors:
    """A BuiltQuantizationFormat that NamesEncodings, HasCodes, HasCacheFactors, ReadsContents and LeavesOut."""

    types: frozenset[str] = frozenset({"I64", "I32", "I8", "U8", "F8_E4M3"})

    def __init__(self, context: QuantizationContext) -> None:
        settings = context.model_config["quantization_config"]
        self.dtype = computed_type(context.model_config)
        _refuse(settings)
        groups = settings.get("config_groups") or {}
        if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
            raise ModelError("'config_groups' of compressed-tensors are no groups of modules")
        self._schemes = [
            _scheme(name, group, settings.get("format"))
            for name, group in groups.items()
            if group.get("weights") is not None
        ]
        if not groups and not settings.get("kv_cache_scheme"):
            raise ModelError("'config_groups' of compressed-tensors are empty; nothing says what is quantized")
        self._classes = tuple(i for i, scheme in enumerate(self._schemes) if any(map(_is_class, scheme.targets)))
        numbers = {(number,) for number in range(len(self._schemes))} | {self._classes}
        self.contents = frozenset(f"weight_shape {_joined(each)}" for each in numbers)
        if self._schemes:
            self.encoding = _encoding(self._schemes)
        else:  # keys and values alone were rounded, or inputs, and weights are plain
            self.types = frozenset()
        self._numbers: dict[str, str] = {}  # by module
        self._notes = _Notes(settings)

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        module, _, role = tensor.rpartition(".")
        if is_of_cache(tensor) or not module or not self._schemes:
            return None
        if role in _ROLES or (role == "weight" and dtype in _BYTES):
            if role not in _INPUTS:
                self._notes.add(module)
            if module not in self._numbers:
                self._numbers[module] = self._number(module)
            return f"{module}.weight", f"{role} {self._numbers[module]}"
        return None

    def left_out(self, tensor: str, content: torch.Tensor) -> bool:
        self._notes.say()
        return is_of_cache(tensor) or (not self._schemes and tensor.rpartition(".")[2] in _INPUTS)

    def cache_factors(self, files: Sequence[WeightFile], layers: Sequence[CacheLayer]) -> Mapping[int, CacheFactors]:
        return cache_factors(files, layers)

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        scheme, parts = self._of(tensors)
        if scheme.format == NVFP4:
            return nvfp4_shape(_floats(parts))
        if scheme.format == MXFP4:
            return _mxfp4_shape(parts)
        if scheme.format == PACKED:
            of_types(parts, _PACKED_TYPES)
            sizes = _packed(parts, scheme)
            return sizes.outputs, sizes.inputs
        return _bytes_shape(parts, scheme)

    def encoding_of(self, tensors: Mapping[str, TensorInfo]) -> str:
        return _encoding([self._of(tensors)[0]])

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        scheme, parts = self._of(tensors)
        if scheme.format == NVFP4:
            return DIVIDED
        if scheme.format == MXFP4:
            return CodesLayout(levels=len(TABLE), group=_MX, added=1)
        if scheme.format == PACKED:
            return CodesLayout(levels=1 << scheme.bits, group=_packed(parts, scheme).group)
        return _bytes_layout(parts, scheme)

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        self._notes.say()
        scheme, parts = self._of(tensors)
        if scheme.format == NVFP4:
            return nvfp4_codes(_floats(parts), divided=True)
        if scheme.format == MXFP4:
            return _mxfp4_codes(parts)
        return _packed_codes(parts, scheme) if scheme.format == PACKED else _bytes_codes(parts, scheme)

    def _number(self, module: str) -> str:
        """The group of a module: the first that names it, else those that have classes of modules."""
        named = next((number for number, scheme in enumerate(self._schemes) if scheme.names(module)), None)
        return _joined(self._classes or (0,) if named is None else (named,))

    def _of(self, tensors: Mapping[str, Any]) -> tuple[Scheme, dict[str, Any]]:
        """How these tensors hold a weight, and they by their own names."""
        numbers = next(iter(tensors)).rpartition(" ")[2].split(",")
        parts = {role.rpartition(" ")[0]: each for role, each in tensors.items()}
        schemes = [self._schemes[int(number)] for number in numbers]
        return next((scheme for scheme in schemes[:-1] if _suits(scheme, parts)), schemes[-1]), parts


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _suits(scheme: Scheme, parts: Mapping[str, Any]) -> bool:
    """Whether the tensors, or what is known of them, can be a weight that is held so."""
    if scheme.format in BYTES:
        return "weight" in parts
    if scheme.format in (NVFP4, MXFP4):
        return ("weight_global_scale" in parts) == (scheme.format == NVFP4) and "weight_packed" in parts
    try:
        _packed(parts, scheme)
    except ModelError:
        return False
    return True


def _is_class(target: str) -> bool:
    return target[:1].isupper() and "." not in target


def _matches(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target == module


def _refuse(settings: Mapping[str, Any]) -> None:
    """ModelError for what is done to weights beside quantizing them."""
    sparse = settings.get("sparsity_config")
    format = sparse.get("format", DENSE) if isinstance(sparse, Mapping) else DENSE
    if format != DENSE:
        raise ModelError(
            f"weights are sparse ({format!r:.60}), and dense ones alone are read; use a checkpoint that "
            "is quantized alone"
        )
    if settings.get("transform_config"):
        raise ModelError(
            "'transform_config' has inputs rotated before they are multiplied, which is not done; use a "
            "checkpoint without it"
        )


def _scheme(name: str, group: Mapping[str, Any], format: object) -> Scheme:
    """A group of "config_groups"; ModelError for one that is not read."""
    weights, targets = group.get("weights"), group.get("targets")
    format = group.get("format") or format
    if not isinstance(weights, Mapping):
        raise ModelError(f"'config_groups' {name} does not say how weights are quantized")
    if format not in _READ:
        raise ModelError(
            f"weights of compressed-tensors are in the format {format!r:.60}; what is read is {', '.join(_READ)}"
        )
    bits = weights.get("num_bits", 8)
    if type(bits) is not int or not 2 <= bits <= 8:
        raise ModelError(f"'num_bits' of 'config_groups' {name} is {bits!r:.60}; it is from 2 to 8")
    size = group_size({"group_size": weights.get("group_size") or -1})
    return Scheme(
        targets=tuple(_names("targets", targets)),
        format=str(format),
        bits=bits,
        group=size if (weights.get("strategy") or "group") in ("group", "tensor_group") else -1,
        blocks=blocks_of(weights.get("block_structure")) if weights.get("strategy") == "block" else None,
    )


def _encoding(schemes: Sequence[Scheme]) -> str:
    first = schemes[0]
    if first.format in (NVFP4, MXFP4):
        return "float4_e2m1fnx2" if first.format == NVFP4 else "mxfp4"
    if first.format == "float-quantized":
        return "float8_e4m3fn"
    return f"int{first.bits}" if first.bits in (4, 8) else "int8"


class _Notes:
    """What config.json says and weights do not follow, logged once they are loaded."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        groups = (settings.get("config_groups") or {}).values()
        inputs = any(group.get("input_activations") for group in groups)
        self._rounded = Rounded()
        if inputs:
            self._rounded.inputs()
        if settings.get("kv_cache_scheme"):
            self._rounded.cache()
        self._ignored = _names("ignore", settings.get("ignore") or [])
        self._modules: dict[str, bool] = {}

    def add(self, module: str) -> None:
        """A module that has quantized weights."""
        if module not in self._modules:
            self._modules[module] = any(_matches(target, module) for target in self._ignored)

    def say(self) -> None:
        self._rounded.say()
        contrary = [module for module, ignored in self._modules.items() if ignored]
        if contrary:
            log.warning(
                "config.json has %d modules not quantized, and their weights are (%s, for example): they are used so",
                len(contrary),
                contrary[0],
            )
        self._modules = {}


def _names(key: str, targets: object) -> list[str]:
    """Names, patterns and classes of modules; ModelError where they are none."""
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ModelError(f"{key!r} of compressed-tensors are no names of modules: {targets!r:.60}")
    for target in targets:
        if target.startswith("re:"):
            _check_pattern(target.removeprefix("re:"))
    return targets


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ModelError(f"{pattern!r:.100} of compressed-tensors is no pattern: {error}") from error


def _floats(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of 4-bit floats by what they are."""
    names = {"weight_packed": "values", "weight_scale": "scales", "weight_global_scale": "factor"}
    return {names[role]: each for role, each in parts.items() if role in names}


def _mxfp4_shape(parts: Mapping[str, Any]) -> tuple[int, ...]:
    require(parts, "weight_packed", "weight_scale")
    values, scales = tuple(parts["weight_packed"].shape), tuple(parts["weight_scale"].shape)
    types = parts["weight_packed"].dtype, parts["weight_scale"].dtype
    if len(values) < 2 or 0 in values or types != ("U8", "U8") or scales != (*values[:-1], 2 * values[-1] / _MX):
        raise damaged(f"{listed(parts)} do not make up a weight in MXFP4")
    return (*values[:-1], 2 * values[-1])


def _mxfp4_codes(parts: Mapping[str, torch.Tensor]) -> Codes:
    import torch

    return Codes(
        codes=neighbours(parts["weight_packed"]),
        table=torch.tensor(TABLE),
        group=_MX,
        scales=powers_of_two(parts["weight_scale"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Those of a weight of packed whole numbers, of which so many are in a word; 0: one after another across words."""

    outputs: int
    inputs: int
    group: int
    per_word: int = 0


def _packed(parts: Mapping[str, Any], scheme: Scheme) -> _Sizes:
    """ModelError where the tensors do not fit together."""
    require(parts, "weight_packed", "weight_scale", "weight_shape")
    packed, scales = tuple(parts["weight_packed"].shape), tuple(parts["weight_scale"].shape)
    outputs, inputs = _said(parts["weight_shape"])
    dense, loose = -(-inputs * scheme.bits // WORD), -(-inputs // (WORD // scheme.bits))
    if len(scales) == 1:
        scales = (*scales, 1)
    group = shared_by(inputs, scales[1], scheme.group) if len(scales) == 2 and 0 not in scales else None
    per_word = 0 if packed[-1:] == (dense,) else WORD // scheme.bits
    fits = (
        len(packed) == 2 and packed[0] == outputs and packed[1] in (dense, loose) and scales[:1] in ((outputs,), (1,))
    )
    zeros = (-(-outputs // per_word) if per_word else -(-outputs * scheme.bits // WORD), *scales[-1:])
    fits = fits and _fit(parts, {"weight_zero_point": zeros, "weight_g_idx": (inputs,)})
    if not fits or group is None:
        raise damaged(
            f"{listed(parts)} do not make up a weight [{outputs}, {inputs}] of {scheme.bits} bits in groups of "
            f"{scheme.group}"
        )
    return _Sizes(outputs=outputs, inputs=inputs, group=group, per_word=per_word)


def _said(shape: Any) -> tuple[int, int]:
    """What `weight_shape` holds."""
    content = getattr(shape, "content", shape)
    sizes = [] if content is None or content.numel() != 2 else [int(size) for size in content.flatten()]
    if len(sizes) != 2 or min(sizes) < 1:
        raise damaged(f"its weight_shape is no shape of a weight: {sizes}")
    return sizes[0], sizes[1]


def _fit(parts: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether those of the tensors that there are have these shapes."""
    return all(tuple(parts[role].shape) == shape for role, shape in shapes.items() if role in parts)


def _packed_codes(parts: Mapping[str, torch.Tensor], scheme: Scheme) -> Codes:
    import torch

    sizes = _packed(parts, scheme)
    codes = _numbers(parts["weight_packed"], scheme.bits, sizes.inputs, sizes.per_word)
    scales = parts["weight_scale"].reshape(len(parts["weight_scale"]), -1).expand(sizes.outputs, -1)
    order = parts.get("weight_g_idx")
    if order is not None:  # -1: none was found
        order = None if (order < 0).any() else order_of(order, sizes.group, scales.shape[1])
    zeros = parts.get("weight_zero_point")
    return Codes(
        codes=codes if order is None else codes[:, order],
        table=torch.arange(float(1 << scheme.bits)) - (0 if zeros is not None else 1 << scheme.bits - 1),
        group=sizes.group,
        scales=scales,
        zeros=None if zeros is None else _numbers(zeros.t(), scheme.bits, sizes.outputs, sizes.per_word).t(),
        order=order,
    )


def _numbers(words: torch.Tensor, bits: int, count: int, per_word: int) -> torch.Tensor:
    """The first `count` numbers of each row of words, which hold so many each; 0: one after another across words."""
    import torch

    if not per_word:
        rest = -words.shape[1] % bits if WORD % bits else 0
        return fields(torch.nn.functional.pad(words, (0, rest)), bits)[:, :count]
    shifts = torch.arange(0, per_word * bits, bits)
    numbers = (words.long()[..., None] & 0xFFFFFFFF) >> shifts & (1 << bits) - 1
    return numbers.flatten(-2)[:, :count].to(torch.uint8)


def _bytes_shape(parts: Mapping[str, Any], scheme: Scheme) -> tuple[int, ...]:
    require(parts, "weight", "weight_scale")
    kind = _BYTES.get(parts["weight"].dtype)
    weight, scales = tuple(parts["weight"].shape), tuple(parts["weight_scale"].shape)
    zeros = parts.get("weight_zero_point")
    of_types(parts, {"weight_scale": FLOATS, "weight_zero_point": frozenset({parts["weight"].dtype, "I8"})})
    if kind is None or (zeros is not None and tuple(zeros.shape) not in (scales, (*scales, 1))):
        raise damaged(f"{listed(parts)} do not make up a weight of compressed-tensors")
    if _is_grouped(weight, scales, scheme):
        return weight
    return scaled_shape({"values": parts["weight"], "scales": parts["weight_scale"]}, scheme.blocks)


def _is_grouped(weight: Sequence[int], scales: Sequence[int], scheme: Scheme) -> bool:
    """Whether groups of inputs share scales."""
    fits = len(weight) == len(scales) == 2 and scales[0] == weight[0] and scheme.group > 0 and min(*weight, *scales) > 0
    return fits and shared_by(weight[1], scales[1], scheme.group) is not None


def _bytes_layout(parts: Mapping[str, Any], scheme: Scheme) -> CodesLayout:
    weight, scales = parts["weight"], parts["weight_scale"]
    if _is_grouped(weight.shape, scales.shape, scheme):
        return CodesLayout(levels=256, group=min(scheme.group, weight.shape[1]))
    return scaled_layout({"values": weight, "scales": scales}, scheme.blocks)


def _bytes_codes(parts: Mapping[str, torch.Tensor], scheme: Scheme) -> Codes:
    import torch

    weight, scales = parts["weight"], parts["weight_scale"]
    if _is_grouped(weight.shape, scales.shape, scheme):
        table = torch.arange(256, dtype=torch.uint8).view(weight.dtype).float()
        codes = Codes(
            codes=weight.view(torch.uint8), table=table, group=min(scheme.group, weight.shape[1]), scales=scales
        )
    else:
        codes = scaled_codes({"values": weight, "scales": scales}, scheme.blocks)
    zeros = parts.get("weight_zero_point")
    if zeros is None or not zeros.any():
        return codes
    if zeros.dtype != weight.dtype:
        raise damaged(f"its weight_zero_point of type {zeros.dtype} is not zero, beside a weight of {weight.dtype}")
    if zeros.shape != codes.scales.shape:
        zeros = scaled_codes({"values": weight, "scales": zeros}, scheme.blocks).scales
    return replace(codes, zeros=zeros)
