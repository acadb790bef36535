"""Weights that stay codes: packed into panels in their own bits, with the numbers of their groups as compact as they
came.

A weight is a list of segments, each with its own form: the parts of fused projections may differ. Codes of at most 16
levels take 4 bits, whatever the table; those that count from a first value on take 5, 6 or 8 bits, floats of 8 bits and
any other table take 8.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.plugins.cpu.library import Library, rows
from maxserve.plugins.cpu.memory import weight_memory

__all__ = ["CodePanels", "ExpertCodePanels", "takes"]

_WHOLE = 1 << 20  # what codes may count from at most, so that floats hold all they count to


class _Form(IntEnum):
    """`Form` of codes.h."""

    NIBBLES = 0
    FIVES = 1
    SIXES = 2
    BYTES = 3
    FLOATS = 4
    INDICES = 5


_KINDS = {  # `NumberKind` of codes.h; the first one that has all of some numbers is taken
    torch.uint8: 3,
    torch.int8: 4,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.float32: 0,
}


class _Numbers(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("kind", ctypes.c_int64), ("count", ctypes.c_int64))


class _Segment(ctypes.Structure):
    """`Segment` of codes.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("form", "first", "rows", "inputs", "group", "block", "rounds")),
        *((name, _Numbers) for name in ("scales", "offsets", "zeros", "block_scales", "block_offsets")),
    )


class _Weight(ctypes.Structure):
    """`CodedWeight` of codes.h."""

    _fields_ = (("segments", ctypes.c_void_p), ("count", ctypes.c_int64))


def takes(library: Library, inputs: int, layouts: Sequence[CodesLayout]) -> bool:
    """Whether weights of these layouts can stay codes: groups are whole chunks of 16, or a group is a row."""
    chunk = library.ms_codes_chunk(_Form.SIXES)
    return bool(layouts) and all(
        0 < layout.levels <= 256 and (layout.group % chunk == 0 or layout.group >= inputs) for layout in layouts
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    """Codes as a form has them: `table` is what each of them means, `zeros` are what is subtracted from that."""

    form: _Form
    codes: Tensor
    table: Tensor
    zeros: Tensor | None


def _stored(codes: Codes) -> _Stored:
    """The codes in the form of the fewest bits that has them."""
    table = codes.table.float()
    if len(table) <= 16:
        return _Stored(_Form.NIBBLES, codes.codes, _filled(table, 16), codes.zeros)
    return _counted(codes, table) or _floats(codes, table) or _signed(codes, table) or _indices(codes, table)


def _indices(codes: Codes, table: Tensor) -> _Stored:
    return _Stored(_Form.INDICES, codes.codes, _filled(table, 256), codes.zeros)


def _counted(codes: Codes, table: Tensor) -> _Stored | None:
    """Codes that count from a whole number on, in 5 or 6 bits."""
    if len(table) > 64 or not _counts(table):
        return None
    whole_chunks = codes.group % 32 == 0 or codes.group >= codes.codes.shape[1]
    form = _Form.FIVES if len(table) <= 32 and whole_chunks else _Form.SIXES
    return _Stored(form, codes.codes, table[0] + torch.arange(64.0), codes.zeros)


def _counts(table: Tensor) -> bool:
    first = float(table[0])
    whole = first == int(first) if abs(first) < _WHOLE else False
    return whole and torch.equal(table, first + torch.arange(float(len(table))))


def _floats(codes: Codes, table: Tensor) -> _Stored | None:
    """Codes that are the bits of float8_e4m3fn, none of which is NaN."""
    meant = _every_byte().view(torch.float8_e4m3fn).float()
    if len(table) != 256 or not torch.equal(table.nan_to_num(0.0), meant.nan_to_num(0.0)):
        return None
    if ((codes.codes & 0x7F) == 0x7F).any():
        return None
    return _Stored(_Form.FLOATS, codes.codes, meant.nan_to_num(0.0), codes.zeros)


def _signed(codes: Codes, table: Tensor) -> _Stored | None:
    """Codes whose table is whole numbers one after another, as bytes or as unsigned ones: bytes, and what is missing
    from the table is subtracted with the zeros."""
    table = _filled(table, 256)
    meant = _every_byte().view(torch.int8).float()
    if torch.equal(table, meant):
        return _Stored(_Form.BYTES, codes.codes, meant, codes.zeros)
    if not _counts(codes.table.float()):
        return None
    base = float(table[0]) + 128
    old = torch.zeros(codes.scales.shape) if codes.zeros is None else codes.zeros.float()
    zeros = old - base
    if not torch.equal(zeros.double(), old.double() - base) or not torch.equal(zeros, zeros.round()):
        return None
    return _Stored(_Form.BYTES, codes.codes ^ 0x80, meant, zeros if zeros.any() else None)


def _every_byte() -> Tensor:
    return torch.arange(256, dtype=torch.uint8)


def _filled(table: Tensor, size: int) -> Tensor:
    return torch.cat((table, table.new_zeros(size - len(table))))


def _compact(numbers: Tensor) -> Tensor:
    """The numbers in the smallest type that has them all."""
    wide = numbers.float()
    for dtype in _KINDS:
        if not dtype.is_floating_point and not _within(wide, torch.iinfo(dtype)):
            continue
        narrow = wide.to(dtype)
        if torch.equal(narrow.float(), wide):
            return narrow
    return wide  # with numbers that are none


def _within(numbers: Tensor, limits: torch.iinfo) -> bool:
    return bool(((numbers >= limits.min) & (numbers <= limits.max)).all())


class _Part:
    """Codes of some rows in panels, and their C structure."""

    __slots__ = ("_kept", "segment")

    def __init__(self, library: Library, codes: Codes, first: int, *, rounds: bool) -> None:
        count, inputs = codes.codes.shape
        stored = _stored(codes)
        given = stored.codes.contiguous()
        packed = weight_memory.zeros(library.ms_codes_bytes(stored.form, count, inputs), dtype=torch.uint8)
        library.ms_codes_pack(given.data_ptr(), inputs, stored.form, packed.data_ptr(), count, inputs)
        self._kept = [packed, stored.table]  # what the structure has the addresses of
        group = codes.group if codes.group < inputs else -(-inputs // 32) * 32
        self.segment = _Segment(
            codes=packed.data_ptr(),
            table=stored.table.data_ptr(),
            order=None if codes.order is None else self._keep(codes.order.long().clone()),
            form=stored.form,
            first=first,
            rows=count,
            inputs=inputs,
            group=group,
            block=codes.block,
            rounds=rounds and torch.equal(stored.table.bfloat16().float(), stored.table),
            scales=self._numbers(library, codes.scales),
            offsets=self._numbers(library, codes.offsets),
            zeros=self._numbers(library, stored.zeros),
            block_scales=self._numbers(library, codes.block_scales),
            block_offsets=self._numbers(library, codes.block_offsets),
        )

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self._kept)

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _numbers(self, library: Library, numbers: Tensor | None) -> _Numbers:
        """[rows, so many] in panels: [panels, so many, WIDTH]."""
        if numbers is None:
            return _Numbers(None, 0, 0)
        compact, width = _compact(numbers), library.ms_width()
        count, many = compact.shape
        panels = -(-count // width)
        whole = compact.new_zeros(panels * width, many)
        whole[:count] = compact
        placed = whole.view(panels, width, many).transpose(1, 2).contiguous()
        return _Numbers(self._keep(placed), _KINDS[compact.dtype], many)


class _Parts:
    """The segments of one weight in the order of rows, and the C structure that has them."""

    __slots__ = ("_library", "_outputs", "_parts", "_rounds", "_segments")

    def __init__(self, library: Library, outputs: int, *, rounds: bool) -> None:
        self._library, self._outputs, self._rounds = library, outputs, rounds
        self._parts: list[_Part] = []
        self._segments: ctypes.Array[_Segment] = (_Segment * 0)()

    def load(self, codes: Codes, first: int) -> None:
        if not takes(self._library, codes.codes.shape[1], [codes.layout]):
            raise ModelError(f"codes of {codes.layout} are loaded where others were announced")
        if first + len(codes.codes) > self._outputs:
            raise ModelError(f"rows {first} to {first + len(codes.codes)} of codes are loaded into {self._outputs}")
        self._parts.append(_Part(self._library, codes, first, rounds=self._rounds))
        self._parts.sort(key=lambda part: part.segment.first)
        self._segments = (_Segment * len(self._parts))(*(part.segment for part in self._parts))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def weight(self) -> _Weight:
        return _Weight(ctypes.addressof(self._segments), len(self._parts))


class CodePanels:
    """A CodesLinear [outputs, inputs]. `rounds`: rows are rounded to bfloat16 where that has all of a table."""

    __slots__ = ("_inputs", "_library", "_outputs", "_parts", "_weight", "address")

    kind = 3  # CODES of parts.h

    def __init__(self, library: Library, outputs: int, inputs: int, *, rounds: bool) -> None:
        self._library, self._outputs, self._inputs = library, outputs, inputs
        self._parts = _Parts(library, outputs, rounds=rounds)
        self._weight = self._parts.weight()
        self.address = ctypes.addressof(self._weight)

    @property
    def nbytes(self) -> int:
        """The bytes of codes, tables and numbers."""
        return self._parts.nbytes

    def load_codes(self, codes: Codes, first: int) -> None:
        self._parts.load(codes, first)
        made = self._parts.weight()
        self._weight.segments, self._weight.count = made.segments, made.count

    def embedding(self, ids: Tensor) -> Tensor:
        out, ids = torch.empty(len(ids), self._inputs), ids.contiguous()
        self._library.ms_codes_rows(self.address, ids.data_ptr(), len(ids), self._inputs, out.data_ptr())
        return out

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = rows(x if x.dim() == 2 else x.reshape(-1, self._inputs))
        out = torch.empty(flat.shape[0], self._outputs)
        self._library.ms_codes_linear(
            flat.data_ptr(),
            flat.stride(0),
            self.address,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            flat.shape[0],
            self._inputs,
            self._outputs,
        )
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self._outputs)


class ExpertCodePanels:
    """CodesExperts [experts, outputs, inputs]. All products of a mixture are one call."""

    __slots__ = ("_inputs", "_library", "_outputs", "_parts", "_weights")

    def __init__(self, library: Library, experts: int, outputs: int, inputs: int, *, rounds: bool) -> None:
        self._library, self._outputs, self._inputs = library, outputs, inputs
        self._parts = [_Parts(library, outputs, rounds=rounds) for _ in range(experts)]
        self._weights = (_Weight * experts)()

    @property
    def nbytes(self) -> int:
        """The bytes of codes, tables and numbers."""
        return sum(parts.nbytes for parts in self._parts)

    def load_codes(self, expert: int, codes: Codes, first: int) -> None:
        self._parts[expert].load(codes, first)
        self._weights[expert] = self._parts[expert].weight()

    def multiply(self, x: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
        x, ends = rows(x), ends.contiguous()
        out = torch.empty(len(x), self._outputs)
        self._library.ms_codes_experts(
            x.data_ptr(),
            x.stride(0),
            self._weights,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            ends.data_ptr(),
            len(ends),
            self._inputs,
            self._outputs,
        )
        return out
