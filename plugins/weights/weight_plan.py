"""The plan of which tensor of a checkpoint goes where in a model, made from names and shapes alone.

Every parameter must be there. Tensors that are too many are left out, and named in a warning, where they belong to
modules that the model does not have at all (a second head, a tower); within the model's own modules they are an error,
as what they stand for would silently be missing from each answer.

Checkpoints keep one parameter under several spellings: who saved a part of a model, or a model within something else,
left a prefix out or one too many. transformers drops or adds the name of the base model where that makes a name known
(`base_model_prefix`); the same is done here for every prefix in use. What wraps modules while they are trained or
compiled is never part of a name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from maxserve.interfaces.architecture import WeightMap
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import BuiltQuantizationFormat, LeavesOut
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.weights import ReadsFile, Stored, StoredPart, stored_weights

if TYPE_CHECKING:
    import torch

# Modules that torch.compile, DDP, FSDP, activation checkpointing and PEFT put around others.
_WRAPPERS = re.compile(
    r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^(?:module\.)+|"
    r"^(?:module\.)*base_model\.model\.(?=.)"
)
_BASES = ("model.", "language_model.", "transformer.", "text_model.")
_ADDED = ("", "model.", "transformer.", "language_model.model.")
_DROPPED = 3


def unwrapped(name: str) -> str:
    """The name without what wraps the model or its modules."""
    before = None
    while name != before:
        before, name = name, _WRAPPERS.sub("", name)
    return name


def base_name(name: str) -> str:
    """The name without the names of base models in front."""
    while base := next((base for base in _BASES if name.startswith(base)), None):
        name = name.removeprefix(base)
    return name


def is_base(module: str) -> bool:
    """Whether models keep their language model in a module of that name."""
    return module + "." in _BASES


def spellings(name: str) -> Iterator[str]:
    """The name, and what it may be meant for, the likeliest first: fewer prefixes, then another one in front."""
    yield name
    rest = [name]
    while len(rest) <= _DROPPED and (base := next((base for base in _BASES if rest[-1].startswith(base)), None)):
        rest.append(rest[-1].removeprefix(base))
    for bare in rest:
        for prefix in _ADDED:
            if prefix + bare != name:
                yield prefix + bare


log = logging.getLogger("maxserve.model")

_OLD_BUFFERS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")  # old checkpoints store what can be computed
_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """A model's parameters: shape by name, and of each name that modules have for one (`aliases`) the first."""

    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    buffers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Tensor `name` of `file` becomes parameter `target`, or a piece of it.

    A piece is entry `entry` along the first axis, the rows from `offset` on, or rows of an entry. `rows` are those of
    the tensor that are meant, once it is unpacked, where it holds several parameters. `transposed`: the last two axes
    are swapped. `alias`: the parameter is shared, and this is a second tensor for it, stored under that one of its
    names. `parts` are the tensors of a quantized weight by role; `shape` and `dtype` are then those of what comes out.
    `taken` are the axes, counted from the last, of which only indices from the first number to before the second are
    taken in the end. `change` is applied before, to what is unpacked and the right way round.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    target: str
    entry: int | None = None
    offset: int | None = None
    alias: str | None = None
    rows: tuple[int, int] | None = None
    transposed: bool = False
    parts: Mapping[str, StoredPart] = field(default_factory=dict)
    taken: tuple[tuple[int, int, int], ...] = ()
    change: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def changed(self) -> bool:
        """Whether rows are not those of the tensor, once it is unpacked."""
        return bool(self.taken) or self.change is not None

    @property
    def whole(self) -> bool:
        """Whether the tensor is the parameter as it is."""
        piece = self.entry is not None or self.offset is not None or self.rows is not None
        return not (piece or self.changed or self.transposed or self.parts)


def plan_reads(
    parameters: Parameters,
    headers: Mapping[str, Mapping[str, TensorInfo]],
    weight_map: WeightMap,
    format: BuiltQuantizationFormat | None = None,
    read: ReadsFile | None = None,
) -> list[Read]:
    """What to read to fill every parameter exactly once; ModelError naming what is missing, left over or misshapen.

    Second tensors for shared parameters, which are to be compared, come last. `read` gives what a tensor holds, which a
    quantization format may have to know.
    """
    planner = _Planner(parameters, weight_map)
    for stored in stored_weights(headers, format, read):
        planner.add(stored)
    if isinstance(format, LeavesOut) and read is not None:
        planner.leave_out(format, read)
    return planner.reads()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a tensor fills: a parameter by one of its names, an entry of it, a part of a fused one.

    `change` is what is done to the tensor before.
    """

    param: str
    entry: int | None = None
    part: str = ""
    change: Callable[[torch.Tensor], torch.Tensor] | None = None


def locator(parameters: Parameters, weight_map: WeightMap) -> Callable[[str], tuple[Target, ...]]:
    """What finds the targets of a checkpoint's tensor by its name: several where it holds them all, or none."""
    return _Planner(parameters, weight_map).locate


class _Planner:
    def __init__(self, parameters: Parameters, weight_map: WeightMap) -> None:
        self._parameters = parameters
        self._map = weight_map
        self._ignored = [_OLD_BUFFERS, *map(re.compile, weight_map.ignored)]
        self._transposed = [re.compile(pattern) for pattern in weight_map.transposed]
        self._optional = [re.compile(pattern) for pattern in weight_map.optional]
        self._either_way = [re.compile(pattern) for pattern in weight_map.either_way]
        self._slices = {part: (whole, parts) for whole, parts in weight_map.fused.items() for part in parts}
        self._whole: dict[str, tuple[str, Read]] = {}  # by target: name in the model, read
        self._second: list[Read] = []
        self._pieces: dict[str, dict[tuple[int | None, str], Read]] = {}  # by target, then by entry and part's name
        self._modules = {name.partition(".")[0] for name in parameters.aliases}
        self._parts_of_model = {base_name(name).partition(".")[0] for name in parameters.aliases} | self._modules
        self._containers: set[str] = set()  # modules in which the checkpoint has the language model beside others
        self._unknown: list[Stored] = []
        self._absent = {change for change in weight_map.changes if change.absent}

    def add(self, stored: Stored) -> None:
        """Finds the parameter for one tensor of the checkpoint."""
        name = unwrapped(stored.weight)
        if any(pattern.search(name) for pattern in self._ignored):
            return
        for spelling in spellings(name):
            if self._add_as(self._renamed(spelling), stored):
                container, inner, *_ = *name.split("."), ""
                if spelling != name and is_base(inner):
                    self._containers.add(container)
                return
        self._unknown.append(stored)

    def locate(self, name: str) -> tuple[Target, ...]:
        """What a tensor of that name fills."""
        for spelling in spellings(unwrapped(name)):
            ours = self._renamed(spelling)
            if target := self._target(ours):
                return (replace(target, change=self._change(ours)),)
            if parts := self._parts(ours):
                return tuple(Target(param=part, change=self._change(part)) for part in parts)
        return ()

    def _add_as(self, ours: str, stored: Stored) -> bool:
        """Adds the tensor where the model has a parameter, or parts of one, called `ours`; whether it has."""
        target = self._target(ours)
        if target is not None:
            self._add_at(target, self._read(stored, target, ours))
        elif parts := self._parts(ours):
            self._add_parts(stored, parts)
        else:
            return ours in self._parameters.buffers
        return True

    def _read(self, stored: Stored, target: Target, ours: str) -> Read:
        return Read(
            file=stored.file,
            name=stored.name,
            dtype=stored.dtype,
            shape=stored.shape,
            size=stored.size,
            target=self._parameters.aliases[target.param],
            entry=target.entry,
            transposed=not stored.parts and self._is_transposed(stored, target.param),
            parts=stored.parts,
            change=self._change(ours),
        )

    def _change(self, name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What is applied to the tensor of that name."""
        found = next((change for change in self._map.changes if re.search(change.names, name)), None)
        if found is None:
            return None
        self._absent.discard(found)
        return found.apply

    def _is_transposed(self, stored: Stored, param: str) -> bool:
        """Whether the tensor has its last two axes the other way round."""
        if any(pattern.search(param) for pattern in self._either_way):
            shape = self._parameters.shapes[self._parameters.aliases[param]]
            return stored.shape not in (shape, shape[1:]) and stored.shape[-2:] == shape[:-3:-1]
        return any(pattern.search(param) for pattern in self._transposed)

    def _add_at(self, target: Target, read: Read) -> None:
        if target.entry is None and not target.part:
            self._add_whole(target.param, read)
        else:
            self._add_piece(target, read)

    def _add_parts(self, stored: Stored, parts: Sequence[str]) -> None:
        """Gives each of the parameters `parts` its rows of one tensor that holds them all."""
        shapes = [self._parameters.shapes[self._parameters.aliases[part]] for part in parts]
        total = sum(shape[0] for shape in shapes)
        if stored.shape != (total, *shapes[0][1:]):
            listed = ", ".join(f"{part} {list(shape)}" for part, shape in zip(parts, shapes, strict=True))
            raise ModelError(f"{stored.name} {list(stored.shape)} in {stored.file} is not made up of {listed}")
        start = 0
        for part, shape in zip(parts, shapes, strict=True):
            read = self._read(stored, Target(param=part), part)
            rows, share = (start, start + shape[0]), stored.size * shape[0] // total
            self._add_whole(part, replace(read, rows=rows, shape=shape, size=share))
            start = rows[1]

    def leave_out(self, format: LeavesOut, read: ReadsFile) -> None:
        """Forgets tensors without a parameter that mean nothing in the format."""
        self._unknown = [
            stored
            for stored in self._unknown
            if stored.parts or not format.left_out(stored.name, read(stored.file, stored.name))
        ]

    def reads(self) -> list[Read]:
        """Everything to read, once all tensors are added."""
        if self._absent:
            raise ModelError(next(iter(self._absent)).absent)
        missing = [name for name in self._parameters.shapes if name not in self._whole and name not in self._pieces]
        pieces = [read for target in self._pieces for read in self._pieced(target, missing)]
        beside = [stored.name for stored in self._unknown if self._is_beside(stored)]
        unexpected = [stored.name for stored in self._unknown if not self._is_beside(stored)]
        problems = [
            _several("missing from the checkpoint", missing),
            _several("in the checkpoint but not in the model", unexpected + (beside if missing else [])),
        ]
        if missing or unexpected:
            raise ModelError("the weights do not fit the architecture: " + "; ".join(filter(None, problems)))
        if beside:
            log.warning("%s, and left out", _several("in the checkpoint but not in the model", beside))
        return [read for _, read in self._whole.values()] + pieces + self._second

    def _is_beside(self, stored: Stored) -> bool:
        """Whether the tensor is of a module that the model does not have, or of one that may be left out."""
        name = unwrapped(stored.weight)
        if any(pattern.search(name) for pattern in self._optional):
            return True
        ours = self._renamed(name)
        first, _, rest = ours.partition(".")
        if not rest or base_name(ours).partition(".")[0] in self._parts_of_model:
            return False
        return first not in self._modules or first in self._containers

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self._map.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def _target(self, name: str) -> Target | None:
        if name in self._parameters.aliases:
            return Target(param=name)
        name, entry = self._unstacked(name)
        if entry is not None and name in self._parameters.aliases:
            return Target(param=name, entry=entry)
        fused = self._fused(name)
        return None if fused is None else Target(param=fused[0], entry=entry, part=fused[1])

    def _parts(self, name: str) -> list[str]:
        """The parameters that lie in the tensor `name` one after another; none unless the model has them all."""
        pieces = name.split(".")
        for i, piece in enumerate(pieces):
            targets = [".".join([*pieces[:i], part, *pieces[i + 1 :]]) for part in self._map.split.get(piece, ())]
            if targets and all(target in self._parameters.aliases for target in targets):
                return targets
        return []

    def _unstacked(self, name: str) -> tuple[str, int | None]:
        """The stacked parameter that `name` is an entry of, and which: experts.up_proj and 7 of experts.7.up_proj."""
        pieces = name.split(".")
        for i in range(1, len(pieces)):
            if pieces[i].isdecimal() and pieces[i - 1] in self._map.stacked:
                return ".".join([*pieces[:i], *pieces[i + 1 :]]), int(pieces[i])
        return name, None

    def _fused(self, name: str) -> tuple[str, str] | None:
        """The fused parameter that takes `name` as a part, and the part: q_proj of …qkv_proj.weight."""
        pieces = name.split(".")
        for i, piece in enumerate(pieces):
            if piece in self._slices:
                target = ".".join([*pieces[:i], self._slices[piece][0], *pieces[i + 1 :]])
                if target in self._parameters.aliases:
                    return target, piece
        return None

    def _add_whole(self, ours: str, read: Read) -> None:
        shape = self._parameters.shapes[read.target]
        _check_shape(read, (*shape[:-2], shape[-1], shape[-2]) if read.transposed else shape)
        known = self._whole.get(read.target)
        if known is not None and known[0] == ours:
            raise _twice(known[1], read)
        if known is None:
            self._whole[read.target] = (ours, read)
        elif ours == read.target:  # of several names for one shared parameter the model's own first one leads
            self._whole[read.target] = (ours, read)
            self._second.append(replace(known[1], alias=known[0]))
        else:
            self._second.append(replace(read, alias=ours))

    def _add_piece(self, target: Target, read: Read) -> None:
        entries = self._parameters.shapes[read.target][0]
        if target.entry is not None and target.entry >= entries:
            raise ModelError(
                f"{read.name} is one too many: counted from 0, the last one of {read.target} in the model is "
                f"{entries - 1}; do config.json and the weights belong together?"
            )
        pieces = self._pieces.setdefault(read.target, {})
        if (target.entry, target.part) in pieces:
            raise _twice(pieces[target.entry, target.part], read)
        pieces[target.entry, target.part] = read

    def _pieced(self, target: str, missing: list[str]) -> Iterator[Read]:
        """The pieces of a parameter in order, each with the entry it belongs to and the row it starts at."""
        found, shape = self._pieces[target], self._parameters.shapes[target]
        if target in self._whole:
            raise _twice(self._whole[target][1], next(iter(found.values())))
        part = next(part for _, part in found)
        order = self._slices[part][1] if part else ("",)
        stacked = any(entry is not None for entry, _ in found)
        entries: Iterable[int | None] = range(shape[0]) if stacked else (None,)
        for entry in entries:
            absent = [part for part in order if (entry, part) not in found]
            if absent:
                missing.extend(f"{target} ({_piece(entry, part)})" for part in absent)
            else:
                reads = [found[entry, part] for part in order]
                yield from _sliced(target, reads, shape[1:] if stacked else shape)


def _sliced(target: str, reads: Sequence[Read], shape: tuple[int, ...]) -> Iterator[Read]:
    """The parts of one fused parameter, or of one entry of it, each with the row it starts at."""
    if len(reads) == 1:
        _check_shape(reads[0], shape)
        yield reads[0]
        return
    if sum(read.shape[0] for read in reads) != shape[0] or any(read.shape[1:] != shape[1:] for read in reads):
        shapes = ", ".join(f"{read.name} {list(read.shape)}" for read in reads)
        raise ModelError(f"{shapes} do not make up {target}, which has the shape {list(shape)} in the model")
    offset = 0
    for read in reads:
        yield replace(read, offset=offset)
        offset += read.shape[0]


def _piece(entry: int | None, part: str) -> str:
    return " ".join(filter(None, ("" if entry is None else f"number {entry}", part)))


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
