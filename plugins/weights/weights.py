"""Loading of the tensors of a checkpoint into a model.

Files are mapped into memory and read one tensor at a time, so the peak stays near the size of the model. On a CPU a
tensor that needs no change is not even copied: the parameter is the mapped file. Who serves from mapped weights must
not overwrite the files meanwhile. Where a linear method stores the weights of projections, each goes to it as it is
read and is not stored here. Quantized weights go to it as codes, where it takes them so; others are unpacked as they
are read, stacked ones entry by entry.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from maxserve.interfaces.architecture import WeightMap
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.linear import (
    ExpertLayer,
    SupportsCodes,
    SupportsEmbedding,
    SupportsExperts,
    SupportsPlainRows,
)
from maxserve.interfaces.progress import Progress
from maxserve.interfaces.quantization import BuiltQuantizationFormat, HasCodes, Unpacks
from maxserve.plugins.weights.rounded import RoundedExperts, RoundedLinear, may_be_rounded, rounded
from maxserve.plugins.weights.shards import codes_of, cut_layout, layouts
from maxserve.plugins.weights.weight_plan import Parameters, Read, plan_reads
from maxserve.weights import (
    PLAIN_TYPES,
    Checkpoint,
    Embedding,
    Linear,
    LinearStorage,
    OpenFiles,
    Shard,
    open_files,
    tensor_of,
)

if TYPE_CHECKING:
    from maxserve.interfaces.codes import CodesLayout
    from maxserve.interfaces.linear import (
        BuiltLinearMethod,
        CodesExperts,
        CodesLinear,
        PackedExperts,
        PackedLinear,
    )
    from maxserve.interfaces.quantization import Rounding
    from maxserve.interfaces.weight_format import WeightFile

log = logging.getLogger("maxserve.model")

_MAPPED_AT_ONCE = 256 << 20


def load_weights(
    model: nn.Module,
    files: Sequence[WeightFile],
    weight_map: WeightMap,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: Progress,
    storage: LinearStorage | None = None,
    quantization: Checkpoint | None = None,
    shard: Shard | None = None,
) -> None:
    """Fills `model`, built on the meta device, with the tensors of `files`, to compute in `dtype` on `device`.

    Without `storage` all parameters are of `dtype`; with it the weights of projections and tables are as it says.
    Parameters that modules share stay shared, unless the checkpoint has a tensor of its own for each module and they
    differ. `quantization` is the format of a quantized
    checkpoint. With a `shard`, parameters become that rank's part of them. Buffers are left alone:
    `model.prepare()` makes them. ModelError when names or shapes do not fit.
    """
    by_path = {file.path: file for file in files}
    parameters = _Loaded(model, dtype, torch.device(device), by_path, weight_map.exact, shard)
    format = None if quantization is None else quantization.format
    headers = {path: file.tensors for path, file in by_path.items()}
    with open_files(files) as contents:
        reads = parameters.shares(plan_reads(parameters.shapes, headers, weight_map, format, contents))
    parameters.unpack_exactly(reads)
    if storage is not None:
        parameters.create_packed(storage, reads, quantization)
        reads = parameters.before_rounding(reads)
    _say_unpacked(reads, parameters)
    total = sum(read.size for read in reads) or 1
    progress.phase("Loading weights")
    done = 0
    for file, own in _by_file(by_path, reads):
        for read, tensor, parts in _tensors(file, own, parameters, by_path):
            _load(parameters, read, tensor, parts, format)
            done += read.size
            progress.advance(done / total)
    parameters.finish()
    if storage is not None and storage.rounding is not None:
        storage.rounding.say()


def _say_unpacked(reads: Sequence[Read], parameters: _Loaded) -> None:
    """Names the quantized weights that no linear method computes with as they are."""
    unpacked = [read for read in reads if read.parts and not parameters.takes_codes(read.target)]
    if not unpacked:
        return
    types = ["F32" if parameters.unpacks_exactly(read.target) else read.dtype for read in unpacked]
    cut = " in the ranks' shares" if any(read.taken for read in unpacked) else ""
    size = sum(prod(read.shape) * PLAIN_TYPES[type].itemsize for read, type in zip(unpacked, types, strict=True))
    log.info(
        "%d of %d quantized weights are unpacked to %s, %.1f MB (of %s, for example), which no kernel takes as it is%s",
        len(unpacked),
        sum(bool(read.parts) for read in reads),
        " and ".join(sorted(set(types))),
        size / 1e6,
        unpacked[0].target,
        cut,
    )


def _load(
    parameters: _Loaded,
    read: Read,
    tensor: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    format: BuiltQuantizationFormat | None,
) -> None:
    """Takes one tensor, or all those of a quantized weight, of which it is the first."""
    try:
        if read.parts and parameters.takes_codes(read.target):
            parameters.load_codes(read, parts, format)
            return
        exact = parameters.unpacks_exactly(read.target)
        for piece, numbers in _ready(read, tensor, parts, format, exact=exact):
            for share, own in _taken(piece, numbers):
                parameters.load(share, own)
    except ModelError as error:
        raise ModelError(f"{read.name} in {read.file}: {error}") from error


def place_weights(
    model: nn.Module,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: Progress,
    storage: LinearStorage | None = None,
) -> None:
    """Does with the weights that `model` has, in host memory, what `load_weights` does with those it reads.

    For architectures whose `load` gets the weights in a way of its own. Buffers are left alone.
    """
    parameters = _Loaded(model, dtype, torch.device(device), {}, ())
    tensors = parameters.tensors()
    reads = [_in_memory(name, tensor) for name, tensor in tensors.items()]
    if storage is not None:
        parameters.create_packed(storage, reads)
    total = sum(read.size for read in reads) or 1
    done = 0
    for read in reads:
        parameters.load(read, tensors.pop(read.name))
        done += read.size
        progress.advance(done / total)
    parameters.finish()
    if storage is not None and storage.rounding is not None:
        storage.rounding.say()


def _in_memory(name: str, tensor: torch.Tensor) -> Read:
    stored = next((stored for stored, dtype in PLAIN_TYPES.items() if dtype == tensor.dtype), str(tensor.dtype))
    return Read(file="", name=name, dtype=stored, shape=tuple(tensor.shape), size=tensor.nbytes, target=name)


def _by_file(files: Mapping[str, WeightFile], reads: Sequence[Read]) -> Iterator[tuple[WeightFile, list[Read]]]:
    """Each file and what is read of it first."""
    by_path: dict[str, list[Read]] = {path: [] for path in files}
    for read in reads:
        by_path[read.file].append(read)
    for path, own in by_path.items():
        yield files[path], own


def _tensors(
    file: WeightFile, reads: Sequence[Read], parameters: _Loaded, files: Mapping[str, WeightFile]
) -> Iterator[tuple[Read, torch.Tensor, Mapping[str, torch.Tensor]]]:
    """Each read, its tensor, and all tensors of a quantized weight; those that stay mapped last, through a mapping of
    their own.

    A mapping and the pages read through it stay as long as one of its tensors does. Tensors that are copied are
    therefore read through mappings that end after a few of them.
    """
    copied = [read for read in reads if not parameters.maps(read)]
    mapped = [read for read in reads if parameters.maps(read)]
    for group in filter(None, [*_groups(copied), mapped]):
        with OpenFiles(files) as opened:
            for read in group:
                tensor = opened(file.path, read.name, None if read.parts else read.rows)
                yield read, tensor, _parts(read, tensor, opened)


def _ready(
    read: Read,
    tensor: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    format: BuiltQuantizationFormat | None,
    *,
    exact: bool,
) -> Iterator[tuple[Read, torch.Tensor]]:
    """The tensor unpacked and the right way round; one that has to be changed comes entry by entry, if it has any.

    `exact`: what is unpacked stays in float32.
    """
    change = read.change or _unchanged
    if not parts and not read.transposed:
        yield read, change(tensor)
        return
    if len(read.shape) == 2:
        unpacked = _unpacked(tensor, parts, format, exact=exact)
        yield read, change(unpacked if read.rows is None or not parts else unpacked[slice(*read.rows)])
        return
    for entry, own in _entries(read, parts):
        yield replace(read, entry=entry), change(_unpacked(tensor[entry], own, format, exact=exact))


def _entries(read: Read, parts: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Mapping[str, torch.Tensor]]]:
    """The tensors of each weight of a stacked one."""
    for entry in range(read.shape[0]):
        yield entry, {role: part[entry] for role, part in parts.items()}


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _taken(read: Read, tensor: torch.Tensor) -> Iterator[tuple[Read, torch.Tensor]]:
    """This rank's part of the tensor, entry by entry where it has entries."""
    if not read.taken:
        yield read, tensor
        return
    entries: Iterable[tuple[int | None, torch.Tensor]] = ((None, tensor),)
    if tensor.dim() > -read.taken[0][0]:
        entries = enumerate(tensor)
    for entry, part in entries:
        for axis, start, stop in read.taken:
            part = part.narrow(axis, start, stop - start)
        yield read if entry is None else replace(read, entry=entry), part


def _unpacked(
    tensor: torch.Tensor, parts: Mapping[str, torch.Tensor], format: BuiltQuantizationFormat | None, *, exact: bool
) -> torch.Tensor:
    if not parts:
        return tensor.transpose(-1, -2)
    if isinstance(format, Unpacks):
        return format.unpack(parts)
    assert isinstance(format, HasCodes), "a format has codes or unpacks"
    values = format.codes(parts).values()
    return values if exact else values.to(PLAIN_TYPES[format.dtype])


def _parts(read: Read, tensor: torch.Tensor, opened: OpenFiles) -> dict[str, torch.Tensor]:
    """The tensors of a quantized weight by role, the first of which has been read."""
    return {
        role: tensor if part.name == read.name else opened(part.file, part.name) for role, part in read.parts.items()
    }


def _groups(reads: Sequence[Read]) -> Iterator[list[Read]]:
    """The reads in groups of about `_MAPPED_AT_ONCE` bytes."""
    group: list[Read] = []
    size = 0
    for read in reads:
        group.append(read)
        size += read.size
        if size >= _MAPPED_AT_ONCE:
            yield group
            group, size = [], 0
    yield group


class _Loaded:
    """The parameters of a model while they are being replaced by loaded ones."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        device: torch.device,
        files: Mapping[str, WeightFile],
        exact: Sequence[str],
        shard: Shard | None = None,
    ) -> None:
        self._files = files
        self._dtype = dtype
        self._device = device
        self._parameters = _parameters(model)
        self._ready: dict[str, torch.Tensor] = {}
        self._dtypes = {  # by parameter, where it is not `dtype`
            names[0]: torch.float32 for names, _ in self._parameters if any(re.search(each, names[0]) for each in exact)
        }
        self._packed: dict[str, PackedLinear] = {}  # by parameter
        self._experts: dict[str, PackedExperts] = {}  # by parameter
        self._codes: dict[str, CodesLinear] = {}  # by parameter
        self._expert_codes: dict[str, CodesExperts] = {}  # by parameter
        self._mapped: dict[str, Read] = {}  # by parameter that is the mapped file
        self._rounded: dict[str, Rounding] = {}  # by parameter, where no method takes its codes
        self._rounded_copies: dict[str, Rounding] = {}  # likewise, by the name of a projection that shares a table
        self._second: dict[str, torch.Tensor] = {}  # by alias
        self._exact: set[str] = set()  # parameters that quantized weights are unpacked into without rounding
        self.shapes = Parameters(
            shapes={names[0]: tuple(parameter.shape) for names, parameter in self._parameters},
            aliases={name: names[0] for names, _ in self._parameters for name in names},
            buffers=frozenset(name for name, _ in model.named_buffers()),
        )
        self._model = model
        self._layouts = {} if shard is None else layouts(model, self.shapes.shapes, shard)
        self._rounded_whole: set[str] = set()  # parameters whose inputs are cut once they are rounded

    def shares(self, reads: Sequence[Read]) -> list[Read]:
        """What to read of each tensor for this rank's part of the parameters."""
        return [
            share
            for read in reads
            for share in (self._layouts[read.target].cut(read) if read.target in self._layouts else (read,))
        ]

    def before_rounding(self, reads: Sequence[Read]) -> list[Read]:
        """What to read where rows are rounded whole, whatever this rank has of them: blocks are those of one rank."""
        return [
            replace(read, taken=tuple(each for each in read.taken if each[0] != -1))
            if read.target in self._rounded_whole
            else read
            for read in reads
        ]

    def unpack_exactly(self, reads: Sequence[Read]) -> None:
        """Finds the parameters that are stored in a wider type than what is unpacked is rounded to, as a rule.

        They are those of no projection or table, and those of which another part is a plain weight in float32.
        """
        quantized = {read.target for read in reads if read.parts}
        plain = {read.target for read in reads if not read.parts and read.dtype == "F32"}
        modules = {names[0]: self._module(names[0]) for names, _ in self._parameters}
        own = {name for name in quantized if not isinstance(modules[name], Linear | Embedding | ExpertLayer)}
        self._exact = (quantized & plain) | own

    def unpacks_exactly(self, target: str) -> bool:
        return target in self._exact

    def _shape(self, target: str) -> tuple[int, ...]:
        """The shape of a parameter here."""
        whole = self.shapes.shapes[target]
        return self._layouts[target].shape(whole) if target in self._layouts else whole

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the model's parameters hold now, by their first names."""
        return {names[0]: parameter.detach() for names, parameter in self._parameters}

    def create_packed(
        self, storage: LinearStorage, reads: Sequence[Read], quantization: Checkpoint | None = None
    ) -> None:
        """Makes room with `storage` for every weight of a projection that is no one else's too.

        Quantized weights are offered to the method as they are first.

        A table that a projection shares stays a table, and the projection has its own copy of it.
        """
        by_target: dict[str, list[Read]] = {}
        for read in reads:
            if read.dtype in PLAIN_TYPES:
                by_target.setdefault(read.target, []).append(read)
        for names, _ in self._parameters:
            own = by_target.get(names[0], [])
            modules = [(name, self._module(name)) for name in names if name.endswith("weight")]
            if quantization is not None and self._create_codes(names, storage, own, quantization.format):
                continue
            if names[0] in self._exact:
                own = [replace(read, dtype="F32") for read in own]
            if storage.rounding is not None and own and self._round(names, storage, storage.rounding, own):
                continue
            if storage.method is None:
                continue
            if own and modules and isinstance(modules[0][1], ExpertLayer):
                self._create_experts(names[0], modules[0][1], storage, own)
                continue
            if not own or not modules or not all(isinstance(module, Linear | Embedding) for _, module in modules):
                continue
            dtype = self._dtypes[names[0]] = storage.dtype(own)
            for name, module in modules:
                if isinstance(module, Linear):
                    outputs, inputs = self._shape(names[0])
                    packed = storage.method.create(outputs, inputs, dtype)
                    if packed is not None:
                        self._packed[name] = packed
                        module.set_packed(packed)
            if any(isinstance(module, Linear) and module.packed is None for _, module in modules):
                del self._dtypes[names[0]]  # the layer stores it, and multiplies by it as it is

    def _round(self, names: Sequence[str], storage: LinearStorage, rounding: Rounding, reads: Sequence[Read]) -> bool:
        """Makes room for the codes that a weight is rounded to; False where it stays as it is, or no method takes them.

        Weights of the latter sort are rounded before they are stored as others are; of tables, a copy is.
        """
        modules = [(name, self._module(name)) for name in names if name.endswith("weight")]
        projections = [(name, module) for name, module in modules if may_be_rounded(module)]
        shape = self._shape(names[0])
        layout = rounding.layout(shape[-2], self.shapes.shapes[names[0]][-1]) if projections else None
        if len(shape) > 1 and (layout is None or len(projections) < len(modules)):
            rounding.keep(names[0], prod(shape))
        if layout is None:
            return False
        if self._inputs(names[0]) is not None:
            self._rounded_whole.add(names[0])
        made = [self._create_rounded(name, module, storage.method, rounding, layout) for name, module in projections]
        if all(made):
            self._dtypes[names[0]] = storage.dtype(reads)
        elif len(projections) == len(modules):
            self._rounded[names[0]] = rounding
        else:
            self._rounded_copies |= {name: rounding for name, _ in projections}
        return all(made)

    def _create_rounded(
        self, name: str, module: nn.Module, method: BuiltLinearMethod | None, rounding: Rounding, layout: CodesLayout
    ) -> bool:
        """Makes room for the codes of one projection, or of those of all experts; whether the method takes them."""
        if not isinstance(method, SupportsCodes):
            return False
        target = self.shapes.aliases[name]
        *experts, outputs, inputs = self._shape(target)
        own = self._inputs(target)
        layout = cut_layout(layout, own)
        if isinstance(module, ExpertLayer):
            stack = method.create_expert_codes(experts[0], outputs, inputs, [layout])
            if stack is not None:
                self._experts[name] = RoundedExperts(rounding, stack, own)
                module.set_packed(stack)
            return stack is not None
        codes = method.create_codes(outputs, inputs, [layout])
        if codes is not None and isinstance(module, Linear):
            self._packed[name] = RoundedLinear(rounding, codes, own)
            module.set_packed(codes)
        return codes is not None

    def _create_codes(
        self,
        names: Sequence[str],
        storage: LinearStorage,
        reads: Sequence[Read],
        format: BuiltQuantizationFormat,
    ) -> bool:
        """Whether the method takes the weight as codes, but for parts that are plain: no part is changed.

        Where it does not because of this rank's share of the inputs, what is unpacked is not rounded.
        """
        method = storage.method
        if not isinstance(method, SupportsCodes) or not isinstance(format, HasCodes):
            return False
        coded, plain = [read for read in reads if read.parts], [read for read in reads if not read.parts]
        if not coded or any(read.alias is not None or read.change is not None for read in reads):
            return False
        inputs = self._inputs(names[0])
        if inputs is not None and any(self._is_ordered(read, format) for read in coded):
            self._exact.add(names[0])
            return False
        whole = [format.layout({role: part.info for role, part in read.parts.items()}) for read in coded]
        layouts = [cut_layout(layout, inputs) for layout in whole]
        if self._make_codes(names, method, layouts, plain, storage, reads):
            return True
        if layouts != whole:
            self._exact.add(names[0])
        return False

    def _make_codes(
        self,
        names: Sequence[str],
        method: SupportsCodes,
        layouts: Sequence[CodesLayout],
        plain: Sequence[Read],
        storage: LinearStorage,
        reads: Sequence[Read],
    ) -> bool:
        """Makes room for the codes of one parameter; whether the method takes them."""
        modules = [self._module(name) for name in names]
        if len(modules) == 1 and isinstance(modules[0], ExpertLayer):
            return not plain and self._create_expert_codes(names[0], modules[0], method, layouts, reads)
        if not all(isinstance(module, Linear | Embedding) for module in modules):
            return False
        outputs, inputs = self._shape(names[0])
        made = method.create_codes(outputs, inputs, layouts)
        if made is None or (plain and not isinstance(made, SupportsPlainRows)):
            return False
        if plain:
            self._dtypes[names[0]] = storage.dtype(plain)
        self._codes[names[0]] = made
        for module in modules:
            if isinstance(module, Linear | Embedding):
                module.set_packed(made)
        return True

    def _inputs(self, target: str) -> tuple[int, int] | None:
        """Those that this rank has of a parameter; None for all."""
        return self._layouts[target].inputs if target in self._layouts else None

    def _is_ordered(self, read: Read, format: HasCodes) -> bool:
        """Whether codes lie in another order than inputs, of which ranks have neighbours: `order` of Codes.

        Only a tensor with a number for each input can say so.
        """
        if all(part.info.shape != read.shape[-1:] for part in read.parts.values()):
            return False
        with OpenFiles(self._files) as opened:
            first = opened(read.file, read.name, None)
            return format.codes(_parts(read, first, opened)).order is not None

    def _create_expert_codes(
        self,
        name: str,
        module: ExpertLayer,
        method: SupportsCodes,
        layouts: Sequence[CodesLayout],
        reads: Sequence[Read],
    ) -> bool:
        own = [layout for layout, read in zip(layouts, reads, strict=True) if not read.entry]
        experts, outputs, inputs = self._shape(name)
        made = method.create_expert_codes(experts, outputs, inputs, own)
        if made is None:
            return False
        self._expert_codes[name] = made
        module.set_packed(made)
        return True

    def takes_codes(self, target: str) -> bool:
        """Whether the linear method takes the parameter as codes."""
        return target in self._codes or target in self._expert_codes

    def load_codes(self, read: Read, parts: Mapping[str, torch.Tensor], format: BuiltQuantizationFormat | None) -> None:
        """Takes one quantized weight, or a stack of them."""
        assert isinstance(format, HasCodes), "only codes are taken so"
        if read.target in self._codes:
            self._codes[read.target].load_codes(codes_of(format, parts, read), read.offset or 0)
            return
        entries = _entries(read, parts) if len(read.shape) == 3 else iter(((read.entry or 0, parts),))
        for entry, own in entries:
            self._expert_codes[read.target].load_codes(entry, codes_of(format, own, read), read.offset or 0)

    def _create_experts(self, name: str, module: ExpertLayer, storage: LinearStorage, reads: Sequence[Read]) -> None:
        """Makes room for the weights of one projection of all experts, if the method stores such."""
        if not isinstance(storage.method, SupportsExperts):
            return
        dtype = storage.dtype(reads)
        experts, outputs, inputs = self._shape(name)
        packed = storage.method.create_experts(experts, outputs, inputs, dtype)
        if packed is not None:
            self._dtypes[name] = dtype
            self._experts[name] = packed
            module.set_packed(packed)

    def maps(self, read: Read) -> bool:
        """Whether the mapped tensor itself becomes the parameter."""
        if not read.file or not read.whole or self._device.type != "cpu" or read.target in self._rounded:
            return False
        if read.target in self._packed or read.target in self._experts or self.takes_codes(read.target):
            return False
        same = PLAIN_TYPES.get(read.dtype) == self._dtypes.get(read.target, self._dtype)
        return same and self._files[read.file].is_mapped(read.name)

    def load(self, read: Read, tensor: torch.Tensor) -> None:
        """Takes one tensor: a whole parameter, an entry of a stacked one, or rows of either from `read.offset` on."""
        dtype = self._dtypes.get(read.target, self._dtype)
        if read.target in self._rounded:
            tensor = rounded(self._rounded[read.target], tensor, self._inputs(read.target))
        if read.alias is not None:
            self._second[read.alias] = tensor.to(device=self._device, dtype=dtype)
        elif (codes := self._codes.get(read.target)) is not None and isinstance(codes, SupportsPlainRows):
            codes.load_rows(tensor.to(device=self._device, dtype=dtype), read.offset or 0)
        elif read.target in self._packed:
            self._packed[read.target].load_rows(tensor.to(device=self._device, dtype=dtype), read.offset or 0)
        elif read.target in self._experts:
            entries = enumerate(tensor) if read.entry is None else iter(((read.entry, tensor),))
            for entry, rows in entries:
                self._experts[read.target].load_rows(entry, rows.to(device=self._device, dtype=dtype), read.offset or 0)
        elif read.whole:
            if self.maps(read):
                self._mapped[read.target] = read
            self._ready[read.target] = tensor.to(device=self._device, dtype=dtype)
        else:
            self._load_piece(read, tensor, dtype)

    def _load_piece(self, read: Read, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        whole = self._ready.get(read.target)
        if whole is None:
            shape = self._shape(read.target)
            whole = self._ready[read.target] = torch.empty(shape, dtype=dtype, device=self._device)
        piece = whole if read.entry is None else whole[read.entry]
        if read.offset is not None:
            piece = piece[read.offset : read.offset + tensor.shape[0]]
        piece.copy_(tensor)

    def finish(self) -> None:
        """Gives every tensor to the modules that have its parameter.

        Tables whose weight a projection stores too are read from there, where its method can: once is enough.
        """
        tables: list[tuple[Embedding, SupportsEmbedding]] = []
        for names, _ in self._parameters:
            if names[0] in self._packed or names[0] in self._experts or self.takes_codes(names[0]):
                continue
            shared = self._ready.pop(names[0])
            parameter = nn.Parameter(shared, requires_grad=False)
            for name in names:
                own = self._own(name, shared)
                if name in self._rounded_copies:
                    values = rounded(self._rounded_copies[name], shared if own is None else own)
                    own = values.to(shared.dtype)
                if name in self._packed:
                    self._packed[name].load_rows(self._read_again(names[0], shared) if own is None else own, 0)
                    continue
                packed = self._table(names) if own is None else None
                if packed is not None and isinstance(module := self._module(name), Embedding):
                    tables.append((module, packed))
                    continue
                value = parameter if own is None else nn.Parameter(own, requires_grad=False)
                setattr(self._module(name), name.rpartition(".")[2], value)
        for table, packed in tables:
            table.set_packed(packed)
        for module in self._model.modules():
            if isinstance(module, Embedding):
                module.compute = self._dtype

    def _table(self, names: Sequence[str]) -> SupportsEmbedding | None:
        """The packed weight that the modules with these names share, if rows of it can be had."""
        for name in names:
            packed = self._packed.get(name)
            if isinstance(packed, SupportsEmbedding) and name not in (self._second | self._rounded_copies):
                return packed
        return None

    def _read_again(self, target: str, tensor: torch.Tensor) -> torch.Tensor:
        """A mapped tensor through a mapping of its own, which ends after use: the pages of the other stay untouched."""
        read = self._mapped.get(target)
        return tensor if read is None else tensor_of(self._files[read.file], read.name)

    def _module(self, name: str) -> nn.Module:
        """The module that has the parameter of that name."""
        return self._model.get_submodule(name.rpartition(".")[0])

    def _own(self, name: str, shared: torch.Tensor) -> torch.Tensor | None:
        """The tensor the checkpoint has under this name alone, if it is not the shared one once more."""
        second = self._second.pop(name, None)
        if second is None or torch.equal(second, shared):
            return None
        log.warning("config.json ties %s to another weight, the checkpoint's own one differs and is used", name)
        return second


def _parameters(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Each parameter and all names under which modules have it."""
    names: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), ([], parameter))[0].append(name)
    return list(names.values())
