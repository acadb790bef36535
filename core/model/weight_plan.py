"""Which tensor of a checkpoint goes where in a model? Decided from names and shapes alone, before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from maxserve.core.components import WeightMap
from maxserve.core.errors import ModelError
from maxserve.core.model.safetensors_header import TensorInfo

_OLD_BUFFERS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")  # old checkpoints store what can be computed
_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """A model's parameters: shape by name, and the name of each place that shares one (`aliases`, itself included)."""

    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    buffers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Tensor `name` of `file` becomes parameter `target`, or the rows of it from `offset` on.

    `place`: the parameter is shared, and this is a second tensor for it, stored under the name of that place.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    target: str
    offset: int | None = None
    place: str | None = None


def plan_reads(
    parameters: Parameters, headers: Mapping[str, Mapping[str, TensorInfo]], weight_map: WeightMap
) -> list[Read]:
    """What to read to fill every parameter exactly once; ModelError naming what is missing, left over or misshapen.

    Second tensors for shared parameters, which are to be compared, come last.
    """
    placing = _Placing(parameters, weight_map)
    for file, header in headers.items():
        for name, tensor in header.items():
            placing.place(file, name, tensor)
    return placing.reads()


class _Placing:
    def __init__(self, parameters: Parameters, weight_map: WeightMap) -> None:
        self._parameters = parameters
        self._map = weight_map
        self._ignored = [_OLD_BUFFERS, *map(re.compile, weight_map.ignored)]
        self._slices = {part: (whole, parts) for whole, parts in weight_map.fused.items() for part in parts}
        self._whole: dict[str, tuple[str, Read]] = {}  # by target: name in the model, read
        self._second: list[Read] = []
        self._parts: dict[str, dict[str, Read]] = {}  # by target and part's name
        self._unexpected: list[str] = []

    def place(self, file: str, name: str, tensor: TensorInfo) -> None:
        """Finds the parameter for one tensor of the checkpoint."""
        if any(pattern.search(name) for pattern in self._ignored):
            return
        ours = self._renamed(name)
        read = Read(file=file, name=name, dtype=tensor.dtype, shape=tensor.shape, size=tensor.size, target="")
        if ours in self._parameters.aliases:
            self._place_whole(ours, read)
        elif (found := self._fused(ours)) is not None:
            target, part = found
            self._place_part(target, part, replace(read, target=target))
        elif ours not in self._parameters.buffers:
            self._unexpected.append(name)

    def reads(self) -> list[Read]:
        """Everything to read, once all tensors are placed."""
        missing = [name for name in self._parameters.shapes if name not in self._whole and name not in self._parts]
        fused = [read for target, parts in self._parts.items() for read in self._sliced(target, parts, missing)]
        problems = [
            _several("missing from the checkpoint", missing),
            _several("in the checkpoint but not in the model", self._unexpected),
        ]
        if missing or self._unexpected:
            raise ModelError("the weights do not fit the architecture: " + "; ".join(filter(None, problems)))
        return [read for _, read in self._whole.values()] + fused + self._second

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self._map.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def _fused(self, name: str) -> tuple[str, str] | None:
        """The fused parameter that takes `name` as a part, and the part: q_proj of …qkv_proj.weight."""
        pieces = name.split(".")
        for i, piece in enumerate(pieces):
            if piece in self._slices:
                target = ".".join([*pieces[:i], self._slices[piece][0], *pieces[i + 1 :]])
                if target in self._parameters.aliases:
                    return self._parameters.aliases[target], piece
        return None

    def _place_whole(self, ours: str, read: Read) -> None:
        target = self._parameters.aliases[ours]
        _check_shape(read, self._parameters.shapes[target])
        known = self._whole.get(target)
        if known is not None and known[0] == ours:
            raise _twice(known[1], read)
        read = replace(read, target=target)
        if known is None:
            self._whole[target] = (ours, read)
        elif ours == target:  # of several names for one shared parameter the model's own first one leads
            self._whole[target] = (ours, read)
            self._second.append(replace(known[1], place=known[0]))
        else:
            self._second.append(replace(read, place=ours))

    def _place_part(self, target: str, part: str, read: Read) -> None:
        parts = self._parts.setdefault(target, {})
        if part in parts:
            raise _twice(parts[part], read)
        parts[part] = read

    def _sliced(self, target: str, found: Mapping[str, Read], missing: list[str]) -> Iterator[Read]:
        """The parts of a fused parameter in order, each with the row it starts at."""
        order = self._slices[next(iter(found))][1]
        absent = [part for part in order if part not in found]
        if absent:
            missing.extend(f"{target} ({part})" for part in absent)
            return
        shape = self._parameters.shapes[target]
        rows = sum(found[part].shape[0] for part in order)
        if rows != shape[0] or any(found[part].shape[1:] != shape[1:] for part in order):
            shapes = ", ".join(f"{found[part].name} {list(found[part].shape)}" for part in order)
            raise ModelError(f"{shapes} do not make up {target}, which has the shape {list(shape)} in the model")
        offset = 0
        for part in order:
            yield replace(found[part], offset=offset)
            offset += found[part].shape[0]


def _check_shape(read: Read, shape: tuple[int, ...]) -> None:
    if read.shape != shape:
        raise ModelError(
            f"{read.name} has the shape {list(read.shape)} in {read.file} and {list(shape)} in the model; "
            "do config.json and the weights belong together?"
        )


def _twice(first: Read, second: Read) -> ModelError:
    return ModelError(
        f"{first.name} in {first.file} and {second.name} in {second.file} are the same parameter; "
        "name the files to read with --weight-path"
    )


def _several(what: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    if not listed:
        return ""
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"{len(listed)} {what}: {', '.join(listed[:_LISTED])}{more}"
