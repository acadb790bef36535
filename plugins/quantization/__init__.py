"""Formats in which checkpoints hold quantized weights."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import QuantizationFormat, hookimpl


@hookimpl
def maxserve_quantization_formats() -> Iterable[QuantizationFormat]:
    yield QuantizationFormat(
        name="auto-round",
        build="maxserve.plugins.quantization.auto_round:auto_round",
        match="maxserve.plugins.quantization.auto_round:is_auto_round",
        summary="whole numbers in the layouts of GPTQ, where they are symmetric, and of AWQ, as AutoRound writes them",
    )
    yield QuantizationFormat(
        name="awq",
        build="maxserve.plugins.quantization.awq:Awq",
        summary="4 bits in groups of inputs, as AutoAWQ writes them",
        config_file="quant_config.json",
    )
    yield QuantizationFormat(
        name="bitsandbytes",
        build="maxserve.plugins.quantization.bitsandbytes:Bitsandbytes",
        summary="NF4, FP4 and int8, as transformers writes them",
    )
    yield QuantizationFormat(
        name="compressed-tensors",
        build="maxserve.plugins.quantization.compressed_tensors:CompressedTensors",
        config_key="compression_config",
        summary="whole numbers of 2 to 8 bits, 8-bit floats, NVFP4 and MXFP4, as LLM Compressor writes them",
    )
    yield QuantizationFormat(
        name="fp8",
        build="maxserve.plugins.quantization.fp8:Fp8",
        summary="8-bit floats with a scale for all, a row or a block, as DeepSeek V3 is stored",
        rounds=("float8_e4m3fn",),
    )
    yield QuantizationFormat(
        name="gptq",
        build="maxserve.plugins.quantization.gptq:Gptq",
        summary="2, 3, 4 or 8 bits in groups of inputs, as AutoGPTQ and GPTQModel write them",
        config_file="quantize_config.json",
    )
    yield QuantizationFormat(
        name="modelopt",
        build="maxserve.plugins.quantization.modelopt:Modelopt",
        summary="NVFP4 and 8-bit floats, as NVIDIA's Model Optimizer writes them",
        config_file="hf_quant_config.json",
    )
    yield QuantizationFormat(
        name="mxfp4",
        build="maxserve.plugins.quantization.mxfp4:Mxfp4",
        summary="4-bit floats in blocks of 32 that share a power of two, as GPT-OSS is stored",
    )
