"""Types of tensors in GGUF files, by their numbers: ggml/src/ggml-common.h of llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from maxserve.interfaces.codes import CodesLayout


@dataclass(frozen=True, slots=True)
class TensorType:
    """A type: `values` neighbouring numbers of a row are a block of `size` bytes."""

    name: str
    values: int
    size: int


PLAIN = frozenset({"F32", "F16", "BF16"})  # those that need no unpacking; safetensors has the same names

TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
}

BY_NAME = {type.name: type for type in TYPES.values()}

# How the quantized types that are read are coded.
LAYOUTS = {
    "Q4_0": CodesLayout(levels=16, group=32),
    "Q4_1": CodesLayout(levels=16, group=32),
    "Q5_0": CodesLayout(levels=32, group=32),
    "Q5_1": CodesLayout(levels=32, group=32),
    "Q8_0": CodesLayout(levels=256, group=32),
    "Q2_K": CodesLayout(levels=4, group=16),
    "Q3_K": CodesLayout(levels=8, group=16),
    "Q4_K": CodesLayout(levels=16, group=32),
    "Q5_K": CodesLayout(levels=32, group=32),
    "Q6_K": CodesLayout(levels=64, group=16),
    "IQ4_NL": CodesLayout(levels=16, group=32),
    "IQ4_XS": CodesLayout(levels=16, group=32),
    "MXFP4": CodesLayout(levels=16, group=32),
    "NVFP4": CodesLayout(levels=16, group=16),
}

# What general.file_type says that most of a file is: llama.h, llama_ftype.
FILE_TYPES = {
    0: "float32",
    1: "float16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k",
    12: "q3_k",
    13: "q3_k",
    14: "q4_k",
    15: "q4_k",
    16: "q5_k",
    17: "q5_k",
    18: "q6_k",
    21: "q2_k",
    25: "iq4_nl",
    30: "iq4_xs",
    32: "bfloat16",
    38: "mxfp4",
    39: "nvfp4",
}

# Types by the encoding that weights are rounded to; the first whose blocks the rows are made up of is taken.
ROUNDED = {
    "q4_0": ("Q4_0",),
    "q4_1": ("Q4_1",),
    "q5_0": ("Q5_0",),
    "q5_1": ("Q5_1",),
    "q8_0": ("Q8_0",),
    "q4_k": ("Q4_K", "Q5_0"),
    "q6_k": ("Q6_K", "Q8_0"),
}
PLAIN_ENCODINGS = {"bfloat16": ("BF16",), "float16": ("F16",), "float32": ("F32",)}  # in which files are written


def rounded_type(encoding: str, inputs: int) -> TensorType | None:
    """What rows of so many inputs are rounded to; None where they are no whole blocks."""
    types = (BY_NAME[name] for name in (ROUNDED | PLAIN_ENCODINGS)[encoding])
    return next((type for type in types if inputs % type.values == 0), None)
