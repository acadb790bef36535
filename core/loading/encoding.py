"""The type in which weights are stored and served.

Three encodings are known: float32, bfloat16 and float16. Checkpoints in float16 are served too, although it cannot be
asked for; any architecture that takes bfloat16 takes them. In which type an encoding is computed is decided where the
device is known, in core/loading/device.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import BuiltQuantizationFormat
from maxserve.core.interfaces.weight_format import TensorInfo, WeightFile
from maxserve.core.loading.quantization import parts_by

STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_INDICES = frozenset({"I64", "BOOL"})  # types of buffers such as position ids, which are no weights
_CASTABLE = ("float32", "bfloat16")
_CALIBRATED = frozenset({"gptq", "awq", "float4_e2m1fnx2", "nvfp4"})
_CAST = "--allow-safetensors-weights-fp32-bf6-bidirectional-cast"


def stored_encoding(files: Sequence[WeightFile], format: BuiltQuantizationFormat | None = None) -> str:
    """The encoding that most bytes of the files have; ModelError naming a type that cannot be served.

    Tensors of quantized weights do not count: what is unpacked is served as the other weights are, and in float32 where
    there are no others.
    """
    packed = frozenset() if format is None else format.types
    part_of = parts_by(format, (file.tensors for file in files))
    sizes: Counter[str] = Counter()
    for file in files:
        for name, tensor in file.tensors.items():
            if tensor.dtype not in _INDICES | packed and part_of(name, tensor.dtype) is None:
                sizes[_encoding(file.path, name, tensor)] += tensor.size
    if not sizes and format is not None:
        return "float32"
    if not sizes:
        raise ModelError(f"no weights in {_listed(files)}: the files hold no tensors of numbers")
    return sizes.most_common(1)[0][0]


def settle_encoding(
    stored: str, wanted: str | None, *, cast: bool, ref: str, packed: str | None = None, roundable: Collection[str] = ()
) -> str:
    """The encoding to serve: the stored one unless another is `wanted` and may be cast to.

    `packed` is what the weights of a quantized checkpoint are called, `roundable` are encodings that plain ones are
    rounded to while they are loaded: these are stored ones, too.
    """
    if wanted is None or wanted == (packed or stored):
        return stored
    if packed is not None:
        raise ModelError(
            f"{ref} is stored as {packed}, not as the {wanted} of --quantization-encoding; drop that option"
        )
    if wanted in _CALIBRATED:
        raise ModelError(
            f"{ref} is stored as {stored}, and {wanted} of --quantization-encoding needs calibration: a tool such as "
            "gptqmodel, AutoAWQ or LLM Compressor quantizes with texts at hand; use a checkpoint that is in it, or "
            "drop the option"
        )
    if wanted in roundable and not cast:
        return stored
    if wanted not in STORED.values() and wanted not in roundable:
        raise ModelError(
            f"{ref} is stored as {stored}, and is not rounded to the {wanted} of --quantization-encoding while it is "
            f"loaded, only to {', '.join(sorted(roundable)) or 'nothing'}; use a checkpoint in {wanted} or "
            "another value"
        )
    if cast and wanted in roundable:
        raise ModelError(
            f"{_CAST} converts between float32 and bfloat16 only, and {wanted} of --quantization-encoding rounds what "
            "is stored; drop the cast"
        )
    if cast and stored not in _CASTABLE:
        raise ModelError(
            f"{_CAST} converts between float32 and bfloat16 only, and {ref} is stored as {stored}; drop "
            f"--quantization-encoding {wanted}"
        )
    if not cast:
        raise ModelError(
            f"{ref} is stored as {stored}, not as the {wanted} of --quantization-encoding; drop that option, or add "
            f"{_CAST} to convert the weights while they are loaded"
        )
    return wanted


def check_supported(encoding: str, supported: Iterable[str], architecture: str) -> None:
    """ModelError unless the architecture computes in `encoding`."""
    known = set(supported)
    if encoding in known or (encoding == "float16" and "bfloat16" in known):
        return
    raise ModelError(
        f"architecture {architecture} does not support {encoding} weights, only {', '.join(sorted(known))}; "
        f"--quantization-encoding with {_CAST} can convert them"
    )


def _encoding(file: str, name: str, tensor: TensorInfo) -> str:
    if tensor.dtype not in STORED:
        raise ModelError(
            f"weights of type {tensor.dtype} are not supported yet (tensor {name} in {file}); use a checkpoint in "
            "float32, bfloat16 or float16"
        )
    return STORED[tensor.dtype]


def _listed(files: Sequence[WeightFile]) -> str:
    return ", ".join(file.path for file in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
