"""The quantized weights of a checkpoint: its format, and which tensors belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from maxserve.core.interfaces.errors import ModelError, PluginError
from maxserve.core.interfaces.quantization import (
    BuiltQuantizationFormat,
    HasCodes,
    NamesEncoding,
    NamesEncodings,
    QuantizationContext,
    QuantizationFormat,
    ReadsContents,
    Rounding,
    RoundingContext,
    Rounds,
    SeesOthers,
)
from maxserve.core.interfaces.weight_format import TensorInfo
from maxserve.core.registry.contracts import built_part
from maxserve.core.registry.entries import load_ref

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.architecture import WeightMap
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host

ReadsFile: TypeAlias = "Callable[[str, str], torch.Tensor]"  # a tensor, by file and name


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The format of a quantized checkpoint, and the name it is declared by."""

    name: str
    format: BuiltQuantizationFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One tensor of a quantized weight."""

    file: str
    name: str
    info: TensorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The tensor `name` of a checkpoint that holds the weight `weight`, itself unless it is packed.

    `dtype` and `shape` are those of the weight once unpacked, `size` the bytes in the file. `parts` are the tensors of
    a quantized weight by role, of which `name` is the first.
    """

    file: str
    name: str
    weight: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    parts: Mapping[str, StoredPart] = field(default_factory=dict)


def quantization_of(host: Host, config: Mapping[str, Any], ref: str, said_in: str = "config.json") -> Checkpoint | None:
    """The format of the checkpoint of `config`, the content of config.json; None if it is not quantized.

    ModelError where no plugin knows the format, or the plugin cannot read this variant of it, which the file `said_in`
    describes.
    """
    entry = next((entry for entry in host.quantization_formats if _matches(entry.component, config)), None)
    if entry is not None:
        return Checkpoint(name=entry.name, format=_built(host, entry, config, said_in))
    if not config.get("quantization_config"):
        return None
    known = ", ".join(sorted(host.quantization_formats.names()))
    raise ModelError(
        f"{ref} is quantized ({quantization_method(config)}), which is not supported yet; use an unquantized checkpoint"
        + (f", or one quantized in a format that is known: {known}" if known else "")
    )


def quantization_files(host: Host) -> tuple[str, ...]:
    """The files beside config.json that may say how a checkpoint is quantized."""
    return tuple(entry.component.config_file for entry in host.quantization_formats if entry.component.config_file)


def quantization_method(config: Mapping[str, Any]) -> str:
    """The "quant_method" of a quantized checkpoint."""
    quantization = config.get("quantization_config")
    return str(quantization.get("quant_method", "unknown")) if isinstance(quantization, Mapping) else "unknown"


def rounding_to(host: Host, encoding: str) -> Rounds:
    """What rounds plain weights to an encoding, which is one of `roundable`."""
    entry = _rounding_entry(host, encoding)
    settings = {"quant_method": entry.name, "encoding": encoding}
    built = host.build(entry, QuantizationContext(model_config={"quantization_config": settings}))
    if not isinstance(built, Rounds):
        raise PluginError(f"{entry.title}: a format that `rounds` needs rounded_tensors, rounded, layout and codes")
    return built


def _rounding_entry(host: Host, encoding: str) -> Entry[QuantizationFormat]:
    return next(entry for entry in host.quantization_formats if encoding in entry.component.rounds)


def rounding_of(host: Host, files: ModelFiles) -> Rounding | None:
    """What rounds the plain weights of these files, where the operator wants it."""
    if not files.rounding:
        return None
    entry = _rounding_entry(host, files.rounding)
    context = RoundingContext(
        encoding=files.rounding, rounds=rounding_to(host, files.rounding), by=entry.title, cache=files.rounding_cache
    )
    found: Rounding = built_part(host, entry, "rounding", context)
    return found


def roundable(host: Host) -> frozenset[str]:
    """The encodings that plain weights can be rounded to while they are loaded."""
    return frozenset(encoding for entry in host.quantization_formats for encoding in entry.component.rounds)


def _matches(declared: QuantizationFormat, config: Mapping[str, Any]) -> bool:
    if declared.match is not None:
        return bool(load_ref(declared.match)(config))
    return bool(config.get("quantization_config")) and quantization_method(config) == declared.name


def _built(
    host: Host, entry: Entry[QuantizationFormat], config: Mapping[str, Any], said_in: str
) -> BuiltQuantizationFormat:
    try:
        built: BuiltQuantizationFormat = host.build(entry, QuantizationContext(model_config=config))
    except ModelError as error:
        raise ModelError(f"{said_in}: {error}") from error
    return built


def parts_by(
    format: BuiltQuantizationFormat | None, headers: Iterable[Mapping[str, TensorInfo]]
) -> Callable[[str, str], tuple[str, str] | None]:
    """What gives the weight and the role of a tensor of the checkpoint, by its name and type."""
    if isinstance(format, SeesOthers):
        types = {name: tensor.dtype for header in headers for name, tensor in header.items()}
        return lambda name, dtype: format.part_among(name, types)
    return (lambda name, dtype: None) if format is None else format.part


def stored_weights(
    headers: Mapping[str, Mapping[str, TensorInfo]],
    format: BuiltQuantizationFormat | None,
    read: ReadsFile | None = None,
) -> Iterator[Stored]:
    """The weights of a checkpoint; ModelError where a quantized one lacks one of its tensors.

    `read` gives what tensors hold, for formats that need to know it.
    """
    contents: frozenset[str] = (
        format.contents if isinstance(format, ReadsContents) and read is not None else frozenset()
    )
    weights: dict[str, dict[str, StoredPart]] = {}
    part_of = parts_by(format, headers.values())
    for file, header in headers.items():
        for name, tensor in header.items():
            part = part_of(name, tensor.dtype)
            if part is None:
                yield Stored(
                    file=file, name=name, weight=name, dtype=tensor.dtype, shape=tensor.shape, size=tensor.size
                )
            else:
                weight, role = part
                if read is not None and role in contents:
                    tensor = replace(tensor, content=read(file, name))
                _add(weights.setdefault(weight, {}), role, StoredPart(file=file, name=name, info=tensor))
    for weight, parts in weights.items():
        assert format is not None, "only a format finds parts"
        yield _quantized(weight, parts, format)


def _add(parts: dict[str, StoredPart], role: str, part: StoredPart) -> None:
    if role in parts:
        raise ModelError(
            f"{parts[role].name} in {parts[role].file} and {part.name} in {part.file} are the same part of one weight; "
            "name the files to read with --weight-path"
        )
    parts[role] = part


def _quantized(weight: str, parts: Mapping[str, StoredPart], format: BuiltQuantizationFormat) -> Stored:
    first = next(iter(parts.values()))
    try:
        shape = format.shape({role: part.info for role, part in parts.items()})
    except ModelError as error:
        raise ModelError(f"{first.name} in {first.file}: {error}") from error
    return Stored(
        file=first.file,
        name=first.name,
        weight=weight,
        dtype=format.dtype,
        shape=shape,
        size=sum(part.info.size for part in parts.values()),
        parts=parts,
    )


def codes_size(
    headers: Mapping[str, Mapping[str, TensorInfo]],
    format: BuiltQuantizationFormat,
    weight_map: WeightMap,
    read: ReadsFile | None = None,
) -> tuple[int, int]:
    """How many values of a checkpoint are codes, and their bytes: 4 bits each at least, and scales as they are held.

    What the weight map ignores, or has as optional, such as layers that draft, is no part of the module.
    """
    assert isinstance(format, HasCodes), "only codes stay codes"
    left_out = [re.compile(pattern) for pattern in (*weight_map.ignored, *weight_map.optional)]
    values = size = 0
    for stored in stored_weights(headers, format, read):
        if stored.parts and not any(pattern.search(stored.weight) for pattern in left_out):
            count = prod(stored.shape)
            values, size = values + count, size + held_size(format, {r: p.info for r, p in stored.parts.items()}, count)
    return values, size


def encoding_sizes(
    headers: Mapping[str, Mapping[str, TensorInfo]], quantization: Checkpoint, read: ReadsFile | None = None
) -> Counter[str]:
    """The encodings that quantized weights of a checkpoint are in, with the bytes of each."""
    format = quantization.format
    named = format.encoding if isinstance(format, NamesEncoding) else quantization.name
    sizes: Counter[str] = Counter()
    for stored in stored_weights(headers, format, read):
        if stored.parts:
            infos = {role: part.info for role, part in stored.parts.items()}
            sizes[format.encoding_of(infos) if isinstance(format, NamesEncodings) else named] += stored.size
    return sizes


def shares_text(sizes: Counter[str]) -> str:
    """What most is in, and how much of it where there are several: "q8_0 (73%), q5_0 (18%) and q4_k (9%)"."""
    total = sizes.total() or 1
    parts = [f"{name} ({100 * size / total:.0f}%)" for name, size in sizes.most_common()]
    if len(parts) < 2:
        return next(iter(sizes), "")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def held_size(format: HasCodes, tensors: Mapping[str, TensorInfo], count: int) -> int:
    """The bytes in which `count` values are held that these tensors are the codes of."""
    layout = format.layout(tensors)
    wider = count * max(4 - (layout.levels - 1).bit_length(), 0) // 8 + count // layout.group * layout.added
    return sum(tensor.size for tensor in tensors.values()) + wider
