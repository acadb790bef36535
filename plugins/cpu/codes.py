"""Weights that stay codes: packed into panels in their own bits, with the numbers of their groups as compact as they
came.

A weight is a list of segments, each with its own form (forms.py): the parts of fused projections may differ. Those that
a checkpoint has not quantized are segments, too, whose values lie in panels (panels.py).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.plugins.cpu.forms import Form, Stored, by_bytes, by_floats
from maxserve.plugins.cpu.library import Library, rows
from maxserve.plugins.cpu.memory import weight_memory
from maxserve.plugins.cpu.panels import Panels
from maxserve.quantization import narrowed

__all__ = ["CodePanels", "CodeRows", "ExpertCodePanels", "takes"]

log = logging.getLogger("maxserve.native")

_KINDS = {  # `NumberKind` of codes.h
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
        ("lookup", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("form", "first", "rows", "inputs", "group", "block")),
        *((name, ctypes.c_int64) for name in ("exact", "rounds", "planes", "base", "weights")),
        ("unit", ctypes.c_double),
        *((name, _Numbers) for name in ("scales", "offsets", "zeros", "block_scales", "block_offsets")),
    )


class _Weight(ctypes.Structure):
    """`CodedWeight` of codes.h."""

    _fields_ = (("segments", ctypes.c_void_p), ("count", ctypes.c_int64))


def takes(library: Library, inputs: int, layouts: Sequence[CodesLayout]) -> bool:
    """Whether weights of these layouts can stay codes: groups are whole chunks of 16, or a group is a row."""
    chunk = library.ms_codes_chunk(Form.SIXES)
    return bool(layouts) and all(
        0 < layout.levels <= 256 and (layout.group % chunk == 0 or layout.group >= inputs) for layout in layouts
    )


class CodeRows:
    """How rows are multiplied by codes: as float32, with `rounds` as bfloat16, or as whole numbers of so many bytes,
    `planes`, wherever a table is of whole numbers. `activations` is what the operator calls it: float32 for three, too.
    """

    def __init__(self, activations: str, *, planes: int, rounds: bool) -> None:
        self.activations, self.planes, self.rounds = activations, planes, rounds
        self._said: set[Form] = set()

    def stored(self, codes: Codes) -> tuple[Stored, int]:
        """The codes in the form for such rows, and how many bytes their numbers have; 0 for floats."""
        stored = by_bytes(codes) if self.planes else None
        if stored is not None:
            if self.activations == "float32" and not self._said:
                log.info(
                    "rows are multiplied by quantized weights as whole numbers of 24 bits with a scale for at most 32 "
                    "inputs, on the processor's matrix units (--native.precision exact: as float32, slower)"
                )
                self._said.add(stored.form)
            return stored, self.planes
        stored = by_floats(codes)
        if self.activations != "float32" and stored.form not in self._said:
            log.info(
                "--native.activations %s: codes that are %s are multiplied by float32, as what they mean is no whole "
                "numbers of 8 bits",
                self.activations,
                _NAMES.get(stored.form, f"of {len(codes.table)} levels"),
            )
            self._said.add(stored.form)
        return stored, 0


_NAMES = {
    Form.NIBBLES: "of 4 bits by a table",
    Form.FLOATS: "float8_e4m3fn",
    Form.INDICES: "of 8 bits by a table",
}


class _Part:
    """Codes of some rows in panels, and their C structure."""

    __slots__ = ("_kept", "segment")

    def __init__(self, library: Library, codes: Codes, first: int, how: CodeRows) -> None:
        count, inputs = codes.codes.shape
        stored, planes = how.stored(codes)
        given = stored.codes.contiguous()
        packed = weight_memory.zeros(library.ms_codes_bytes(stored.form, count, inputs), dtype=torch.uint8)
        library.ms_codes_pack(given.data_ptr(), inputs, stored.form, packed.data_ptr(), count, inputs)
        self._kept = [packed, stored.table]  # what the structure has the addresses of
        group = codes.group if codes.group < inputs else -(-inputs // 32) * 32
        exact = torch.equal(stored.table.bfloat16().float(), stored.table)
        self.segment = _Segment(
            codes=packed.data_ptr(),
            table=stored.table.data_ptr(),
            order=None if codes.order is None else self._keep(codes.order.long().clone()),
            lookup=None if stored.lookup is None else self._keep(stored.lookup),
            form=stored.form,
            first=first,
            rows=count,
            inputs=inputs,
            group=group,
            block=codes.block,
            exact=exact,
            rounds=how.rounds and exact,
            planes=planes,
            base=stored.base,
            unit=stored.unit,
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
        compact, width = narrowed(numbers), library.ms_width()
        count, many = compact.shape
        panels = -(-count // width)
        whole = compact.new_zeros(panels * width, many)
        whole[:count] = compact
        placed = whole.view(panels, width, many).transpose(1, 2).contiguous()
        return _Numbers(self._keep(placed), _KINDS[compact.dtype], many)


class _PlainPart:
    """Some rows that are no codes, and their C structure."""

    __slots__ = ("_panels", "segment")

    def __init__(self, panels: Panels, count: int, inputs: int, first: int) -> None:
        self._panels = panels
        self.segment = _Segment(
            codes=panels.address, form=Form.PLAIN, first=first, rows=count, inputs=inputs, weights=panels.kind
        )

    @property
    def nbytes(self) -> int:
        return self._panels.nbytes


class _Parts:
    """The segments of one weight in the order of rows, and the C structure that has them."""

    __slots__ = ("_how", "_library", "_outputs", "_parts", "_segments")

    def __init__(self, library: Library, outputs: int, how: CodeRows) -> None:
        self._library, self._outputs, self._how = library, outputs, how
        self._parts: list[_Part | _PlainPart] = []
        self._segments: ctypes.Array[_Segment] = (_Segment * 0)()

    def load(self, codes: Codes, first: int) -> None:
        if not takes(self._library, codes.codes.shape[1], [codes.layout]):
            raise ModelError(f"codes of {codes.layout} are loaded where others were announced")
        self._add(_Part(self._library, codes, first, self._how))

    def load_plain(self, rows: Tensor, first: int, kind: int) -> None:
        count, inputs = rows.shape
        panels = Panels(self._library, count, inputs, kind)
        panels.load_rows(rows, 0)
        self._add(_PlainPart(panels, count, inputs, first))

    def _add(self, part: _Part | _PlainPart) -> None:
        first, end = part.segment.first, part.segment.first + part.segment.rows
        if end > self._outputs:
            raise ModelError(f"rows {first} to {end} of codes are loaded into {self._outputs}")
        self._parts.append(part)
        self._parts.sort(key=lambda part: part.segment.first)
        self._segments = (_Segment * len(self._parts))(*(part.segment for part in self._parts))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def weight(self) -> _Weight:
        return _Weight(ctypes.addressof(self._segments), len(self._parts))


class CodePanels:
    """A CodesLinear [outputs, inputs] that SupportsPlainRows, which are stored as the `plain` kind for their type."""

    __slots__ = ("_inputs", "_library", "_outputs", "_parts", "_plain", "_weight", "address")

    kind = 3  # CODES of parts.h

    def __init__(
        self, library: Library, outputs: int, inputs: int, how: CodeRows, plain: Callable[[torch.dtype], int]
    ) -> None:
        self._plain = plain
        self._library, self._outputs, self._inputs = library, outputs, inputs
        self._parts = _Parts(library, outputs, how)
        self._weight = self._parts.weight()
        self.address = ctypes.addressof(self._weight)

    @property
    def nbytes(self) -> int:
        """The bytes of codes, tables and numbers, and of rows that are none."""
        return self._parts.nbytes

    def load_codes(self, codes: Codes, first: int) -> None:
        self._parts.load(codes, first)
        self._take()

    def load_rows(self, rows: Tensor, first: int) -> None:
        self._parts.load_plain(rows, first, self._plain(rows.dtype))
        self._take()

    def _take(self) -> None:
        made = self._parts.weight()
        self._weight.segments, self._weight.count = made.segments, made.count

    def embedding(self, ids: Tensor) -> Tensor:
        out, ids = torch.empty(len(ids), self._inputs), ids.contiguous()
        self._library.ms_codes_rows(self.address, ids.data_ptr(), len(ids), self._inputs, out.data_ptr())
        return out

    def multiply(self, x: Tensor, bias: Tensor | None, *, many: bool = False) -> Tensor:
        """`many`: rows are those of sequences that have several, as prompts do."""
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
            many,
        )
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self._outputs)


class ExpertCodePanels:
    """CodesExperts [experts, outputs, inputs]. All products of a mixture are one call."""

    __slots__ = ("_inputs", "_library", "_outputs", "_parts", "_weights")

    def __init__(self, library: Library, experts: int, outputs: int, inputs: int, how: CodeRows) -> None:
        self._library, self._outputs, self._inputs = library, outputs, inputs
        self._parts = [_Parts(library, outputs, how) for _ in range(experts)]
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
