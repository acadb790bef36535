"""GGUF files: weights in the formats of llama.cpp, with config and tokenizer beside them."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import QuantizationFormat, WeightFormat, hookimpl


@hookimpl
def maxserve_weight_formats() -> Iterable[WeightFormat]:
    yield WeightFormat(
        name="gguf",
        build="maxserve.plugins.gguf.files:Gguf",
        suffixes=(".gguf",),
        summary="Single files and split ones, as llama.cpp has them, by themselves or beside a config.json.",
    )


@hookimpl
def maxserve_quantization_formats() -> Iterable[QuantizationFormat]:
    yield QuantizationFormat(
        name="gguf",
        build="maxserve.plugins.gguf.quantization:GgufQuantization",
        summary="the types of GGUF files, from 2 to 8 bits, each tensor in its own",
        rounds=("q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q6_k", "q8_0"),
        writes=("bfloat16", "float16", "float32"),
    )
