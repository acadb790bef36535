"""Kernels of CUDA devices, written in Triton, and the options that choose among them. Declared here."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.linear import LinearMethod


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Which kernels are used."""
    yield ConfigSection(
        name="cuda",
        schema="maxserve.plugins.cuda.options:KernelOptions",
        within="model",
        unsupported="--linear-method none leaves all products to torch; leave it out",
    )


@hookimpl
def maxserve_linear_methods() -> Iterable[LinearMethod]:
    yield LinearMethod(
        name="triton",
        build="maxserve.plugins.cuda.linear:TritonMethod",
        devices=("cuda",),
        priority=10,
        compiled=True,
        summary="compiled for this GPU: quantized weights as codes, float8_e4m3fn by its units; plain ones by torch",
    )
