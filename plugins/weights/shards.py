"""Shares of a model's weights: what one of several ranks has of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.weights.weight_plan import Read
from maxserve.weights import Part, Role, Shard

if TYPE_CHECKING:
    from maxserve.interfaces.codes import Codes, CodesLayout
    from maxserve.interfaces.quantization import HasCodes


@runtime_checkable
class Shared(Protocol):
    """A module whose weight ranks may share: Linear, Embedding and what is like them."""

    role: Role
    parts: Mapping[str, Part]


@runtime_checkable
class SharesValues(Protocol):
    """A module with parameters [count] of which ranks have some each, as `shared_values` says by their names."""

    shared_values: Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start` … `stop` - 1 of a weight are the rows from `at` on of the shard."""

    start: int
    stop: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a rank has of one parameter. `axis` is that of the outputs, counted from the last; `inputs` those it has."""

    axis: int
    spans: tuple[Span, ...]
    inputs: tuple[int, int] | None = None

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the shard of a parameter of that shape."""
        shape = list(whole)
        shape[self.axis] = sum(span.stop - span.start for span in self.spans)
        if self.inputs is not None:
            shape[-1] = self.inputs[1] - self.inputs[0]
        return tuple(shape)

    def share(self, whole: Tensor) -> Tensor:
        """The shard of a parameter."""
        rows = [whole.narrow(self.axis, span.start, span.stop - span.start) for span in self.spans]
        found = rows[0] if len(rows) == 1 else torch.cat(rows, dim=self.axis)
        return found if self.inputs is None else found[..., slice(*self.inputs)]

    def cut(self, read: Read) -> Iterator[Read]:
        """What to take of a tensor that makes up a parameter or rows of it."""
        shape = (*read.shape[:-2], read.shape[-1], read.shape[-2]) if read.transposed else read.shape
        first, rows = read.offset or 0, shape[self.axis]
        for span in self.spans:
            start, stop = max(span.start, first), min(span.stop, first + rows)
            if start < stop:
                taken = ((self.axis, start - first, stop - first), *self._taken_inputs())
                size = read.size * (stop - start) // rows
                yield replace(read, offset=span.at + start - span.start, taken=taken, size=size)

    def _taken_inputs(self) -> tuple[tuple[int, int, int], ...]:
        return () if self.inputs is None else ((-1, *self.inputs),)


def layouts(model: nn.Module, names: Iterable[str], shard: Shard) -> dict[str, Layout]:
    """The layouts of those parameters of which a rank has a part only."""
    found = {}
    for name in names:
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, SharesValues) and own in module.shared_values:
            found[name] = Layout(axis=-1, spans=_spans({"": module.shared_values[own]}, name, shard))
        elif isinstance(module, Shared) and own in ("weight", "bias"):
            layout = layout_of(module, own, model.get_parameter(name).shape, name, shard)
            if layout is not None:
                found[name] = layout
    return found


def layout_of(module: Shared, own: str, shape: Sequence[int], name: str, shard: Shard) -> Layout | None:
    """That of the module's parameter `own`, a "weight" or a "bias" of that shape; None where a rank has all of it."""
    if module.role == "column":
        return Layout(axis=-2 if own == "weight" else -1, spans=_spans(module.parts, name, shard))
    if module.role == "row" and own == "weight":
        return Layout(axis=-2, spans=(Span(0, shape[-2], 0),), inputs=shard.of(shape[-1]))
    return None  # all ranks have it; the bias of a row is added once, where the sums of the ranks are


def _spans(parts: Mapping[str, Part], name: str, shard: Shard) -> tuple[Span, ...]:
    spans, start, at = [], 0, 0
    for part_name, part in parts.items():
        first, last = _share(part, part_name or name, shard)
        spans.append(Span(start + first, start + last, at))
        start, at = start + part.size, at + last - first
    return tuple(spans)


def _share(part: Part, name: str, shard: Shard) -> tuple[int, int]:
    """The outputs of a part that a rank has; ModelError where units would have to be cut."""
    if part.units is None:
        return shard.of(part.size)
    if part.units % shard.size and shard.size % part.units:
        raise ModelError(f"{name} has {part.units} heads or units, which {shard.size} ranks cannot share")
    first, last = shard.of(part.units)
    unit = part.size // part.units
    return first * unit, max(last, first + 1) * unit


def cut_group(group: int, start: int, stop: int) -> int:
    """The groups of inputs `start` … `stop` - 1: a group that the first one halves is several with one scale."""
    if start // group == (stop - 1) // group:
        return stop - start
    return gcd(group, start) if start else group


def cut_layout(layout: CodesLayout, inputs: tuple[int, int] | None) -> CodesLayout:
    """That of the codes of some inputs."""
    return layout if inputs is None else replace(layout, group=cut_group(layout.group, *inputs))


@runtime_checkable
class HasRows(Protocol):
    """A BuiltQuantizationFormat that HasCodes and can leave rows of a weight unread."""

    def rows(self, tensors: Mapping[str, Tensor], first: int, last: int) -> Mapping[str, Tensor]:
        """The tensors, by role, of rows from `first` to before `last`."""
        ...


def codes_of(format: HasCodes, tensors: Mapping[str, Tensor], read: Read) -> Codes:
    """What is taken of the codes of these tensors, the same numbers."""
    first, last = read.rows or (0, read.shape[-2])
    for axis, start, stop in read.taken:
        first, last = (first + start, first + stop) if axis == -2 else (first, last)
    if isinstance(format, HasRows):
        codes = format.codes(format.rows(tensors, first, last))
    else:
        codes = format.codes(tensors)
        codes = codes if (first, last) == (0, len(codes.codes)) else codes.rows(first, last)
    inputs = next(((start, stop) for axis, start, stop in read.taken if axis == -1), None)
    return codes if inputs is None else inputs_of(codes, *inputs)


def inputs_of(codes: Codes, start: int, stop: int) -> Codes:
    """Those of some of the inputs, which are in the order of the weight."""
    if (start, stop) == (0, codes.codes.shape[1]):
        return codes
    assert codes.order is None, "inputs that lie in another order are not neighbours"
    group = cut_group(codes.group, start, stop)
    groups = torch.arange(start, stop, group) // codes.group
    first, last = int(groups[0]) // codes.block, int(groups[-1]) // codes.block
    aligned = group == codes.group and int(groups[0]) % codes.block == 0
    scales, offsets = codes.scales, codes.offsets
    block, block_scales, block_offsets = codes.block, codes.block_scales, codes.block_offsets
    if block_scales is not None and not aligned and first < last:  # a block begins before: blocks are multiplied out
        scales, offsets, block_scales, block_offsets = codes.group_scales(), codes.group_offsets(), None, None
    elif not aligned:
        block = len(groups)

    return replace(
        codes,
        codes=codes.codes[:, start:stop],
        group=group,
        scales=scales[:, groups],
        offsets=None if offsets is None else offsets[:, groups],
        zeros=None if codes.zeros is None else codes.zeros[:, groups],
        block=1 if block_scales is None else block,
        block_scales=None if block_scales is None else block_scales[:, first : last + 1],
        block_offsets=None if block_offsets is None else block_offsets[:, first : last + 1],
    )
