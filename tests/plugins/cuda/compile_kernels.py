"""Compiles variants of the kernels for devices of a compute capability, which need not be here: every one for 90, one
for each number of bits and each meaning of codes for others.

python compile_kernels.py 90
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maxserve.plugins.cuda import kernels
from maxserve.plugins.cuda.codes import StoredCodes, form_of
from maxserve.testing.codes import CODES, random_codes

TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int64: "i64",
    torch.float8_e4m3fn: "fp8e4nv",
}
SOME = (
    "4 bits",
    "4 bits in blocks with offsets",
    "5 bits by a table",
    "6 bits in blocks",
    "8 bits",
    "floats of 8 bits",
)
FLOAT8_UNITS = 89  # the first capability that has them
NUMBERS = ("rows", "outputs", "x_stride", "out_stride", "part_stride", "part_units", "bias_stride", "experts")


def compile_for(capability: int, kernel: Any, arguments: Mapping[str, Any]) -> None:
    """Of tensors and numbers only the types matter; what a kernel takes as constants, and None, are values."""
    signature, constants = {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert made.asm["ptx"], "there is code"
    assert made.asm["cubin"], "there is code for the device"


def products(compute: torch.dtype) -> Mapping[str, Any]:
    """What a product of few rows without experts is told."""
    empty = torch.empty(1, dtype=compute)
    numbers = dict.fromkeys(NUMBERS, 7)
    none: dict[str, Any] = dict.fromkeys(("owners", "starts", "ends"))
    return {"x": empty, "out": empty, "bias": empty, "ROWS": 16, "OUTPUTS": 64, "WIDE": False, **numbers, **none}


def variants(kinds: Iterable[str]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    indices = torch.empty(1, dtype=torch.int64)
    for kind in kinds:
        codes = random_codes(kind, 8, 256)
        stored = StoredCodes(codes, form_of(codes), 1, torch.device("cpu"))
        stored.load(0, codes, form_of(codes))
        yield kernels.product, {**products(torch.bfloat16), **stored.arguments()}
        if kind == "4 bits in blocks with offsets":
            for compute in (torch.float16, torch.float32):
                yield kernels.product, {**products(compute), **stored.arguments()}
            of_experts = {**products(torch.bfloat16), "owners": indices, "starts": indices, "ends": indices, "ROWS": 64}
            yield kernels.product, {**of_experts, **stored.arguments()}
            in_parts = {**products(torch.bfloat16), "bias": None, "out": torch.empty(1), "ROWS": 32}
            yield kernels.product, {**in_parts, **stored.arguments()}
            for dtype, numbers in ((torch.bfloat16, None), (torch.float32, indices)):
                given = {"out": torch.empty(1, dtype=dtype), "numbers": numbers, "rows": 7, "out_stride": 7}
                yield kernels.values, {**given, "OUTPUTS": 64, **stored.arguments()}


def main(capability: int) -> None:
    for kernel, arguments in variants(CODES if capability == 90 else SOME):
        compile_for(capability, kernel, arguments)
    if capability >= FLOAT8_UNITS:
        rounded = {"x": torch.empty(1).bfloat16(), "out": torch.empty(1).to(torch.float8_e4m3fn)}
        more = {"scales": torch.empty(1), "inputs": 7, "x_stride": 7, "LARGEST": 448.0, "INPUTS": 1024}
        compile_for(capability, kernels.rows_of_float8, {**rounded, **more})
    print("compiled")


if __name__ == "__main__":
    main(int(sys.argv[1]))
