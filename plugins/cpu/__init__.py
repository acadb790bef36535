"""Kernels of our own for CPUs, compiled on the machine that runs them. Declared here.

The sources are C++ with the vector types that GCC and Clang share, compiled once for this processor and kept. Where
there is no compiler, torch's own operations serve instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from maxserve import hookimpl
from maxserve.interfaces.attention import AttentionBackend
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.layer_compiler import LayerCompiler
from maxserve.interfaces.linear import LinearMethod


@dataclass(frozen=True, slots=True)
class Config:
    """Which compiler to use, by name or path, where to keep what it makes, and how to multiply."""

    compiler: str = field(
        default="",
        metadata={"help": "C++ compiler for the kernels, by name or path; unset, the first of g++, clang++ and c++."},
    )
    folder: str = field(
        default="",
        metadata={
            "help": "Folder for the compiled kernels; unset, ~/.cache/maxserve/native, or a private one below TMPDIR "
            "where that cannot be written."
        },
    )
    precision: Literal["auto", "exact", "fast"] = field(
        default="auto",
        metadata={
            "help": "How rows are multiplied by bfloat16 weights: exact, as float32; fast, rounded to bfloat16 once, "
            "with sums in float32, also by quantized weights; auto, fast for bfloat16 weights where the processor "
            "multiplies bfloat16 (AVX512_BF16, AMX), else exact, and by quantized weights as whole numbers of 24 bits "
            "where it multiplies bytes by the tile (AMX), else exact."
        },
    )
    activations: Literal["float32", "int16", "int8"] = field(
        default="float32",
        metadata={
            "help": "What rows are when they are multiplied by quantized weights: float32, or what is as good "
            "(--native.precision auto), or, which is faster, whole numbers with a scale for at most 32 inputs: int8, "
            "off by about 0.5 % a product, or int16, off by 0.002 %. "
            "Codes that are no whole numbers (NF4, float8_e4m3fn) are multiplied by float32 all the same."
        },
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    yield ConfigSection(
        name="native", schema="maxserve.plugins.cpu:Config", check="maxserve.plugins.cpu.options:check_activations"
    )


@hookimpl
def maxserve_attention_backends() -> Iterable[AttentionBackend]:
    yield AttentionBackend(
        name="native",
        build="maxserve.plugins.cpu.attention:NativeAttention",
        cache_dtype="maxserve.plugins.cpu.attention:cache_dtype",
        reads_formats=True,
        devices=("cpu",),
        priority=10,
        compiled=True,
        summary="compiled for this CPU: pages read in place, heads of a group as rows",
    )


@hookimpl
def maxserve_linear_methods() -> Iterable[LinearMethod]:
    yield LinearMethod(
        name="native",
        build="maxserve.plugins.cpu.linear:PanelMethod",
        devices=("cpu",),
        priority=10,
        compiled=True,
        summary="compiled for this CPU: weights in panels, float32 or bfloat16, summed up in float32",
    )


@hookimpl
def maxserve_layer_compilers() -> Iterable[LayerCompiler]:
    yield LayerCompiler(
        name="native",
        build="maxserve.plugins.cpu.layers:NativeLayers",
        devices=("cpu",),
        priority=10,
        compiled=True,
        summary="compiled for this CPU: one call a layer, for layers of norms, projections, gates and attention",
    )
