"""Formats in which checkpoints hold quantized weights."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import QuantizationFormat, hookimpl


@hookimpl
def maxserve_quantization_formats() -> Iterable[QuantizationFormat]:
    yield QuantizationFormat(
        name="fp8",
        build="maxserve.plugins.quantization.fp8:BlockFp8",
        summary="8-bit floats in square blocks with a scale each, as DeepSeek V3 is stored",
    )
    yield QuantizationFormat(
        name="gptq",
        build="maxserve.plugins.quantization.gptq:Gptq",
        summary="2, 3, 4 or 8 bits in groups of inputs, as AutoGPTQ and GPTQModel write them",
        config_file="quantize_config.json",
    )
    yield QuantizationFormat(
        name="mxfp4",
        build="maxserve.plugins.quantization.mxfp4:Mxfp4",
        summary="4-bit floats in blocks of 32 that share a power of two, as GPT-OSS is stored",
    )
