"""The linear method of CUDA devices: weights that stay codes.

Few rows are multiplied by codes as they are, in kernels written in Triton; for more, the weight is decoded into the
type of the rows for one product of torch's. Weights of float8_e4m3fn with a scale a row are multiplied by the units for
them where there are such, with rows rounded to float8_e4m3fn too. Plain weights are left to the layers, so to torch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError, Unavailable
from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cuda.codes import UNIT, Form, StoredCodes, form_of
from maxserve.plugins.cuda.float8 import LARGEST, Float8Rows, is_by_rows, reason_against

log = logging.getLogger("maxserve.cuda")

FEW = 64  # rows that are multiplied by codes as they are; for more it takes less time to decode the weight
TILE = 64  # outputs of a program
INTERPRETED = 4  # programs at once where Triton's interpreter stands for a device


class TritonMethod:
    """A BuiltLinearMethod that SupportsCodes."""

    def __init__(self, context: LinearContext) -> None:
        self._kernels = Kernels(context.device, context.compute)
        self._kernels.try_out()

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """The type that the model computes in: torch multiplies by plain weights."""
        return self._kernels.compute

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        """Plain weights are left to the layer."""

    def create_codes(self, outputs: int, inputs: int, layouts: Sequence[CodesLayout]) -> DeviceCodes | None:
        return DeviceCodes(self._kernels, outputs, inputs) if _takes(layouts) else None

    def create_expert_codes(
        self, experts: int, outputs: int, inputs: int, layouts: Sequence[CodesLayout]
    ) -> DeviceExpertCodes | None:
        return DeviceExpertCodes(self._kernels, experts, outputs, inputs) if _takes(layouts) else None


def _takes(layouts: Sequence[CodesLayout]) -> bool:
    return bool(layouts) and all(0 < layout.levels <= 256 for layout in layouts)


class Kernels:
    """The kernels, as they are launched on one device for rows of the type `compute`."""

    def __init__(self, device: torch.device, compute: torch.dtype) -> None:
        self.device, self.compute = device, compute
        try:
            from maxserve.plugins.cuda import kernels
        except ImportError as error:
            raise Unavailable(f"Triton cannot be imported ({error}); pip install triton") from error
        self._kernels: Any = kernels
        self._said: set[str] = set()

    @cached_property
    def float8(self) -> bool:
        """Whether rows and weights of float8_e4m3fn are multiplied as such: sums come out of it in bfloat16."""
        if self.compute != torch.bfloat16:
            return False
        reason = reason_against(self.rows_of_float8, self.device)
        if reason is not None:
            self.say(f"{reason}; weights of float8_e4m3fn are multiplied as codes")
        return reason is None

    @cached_property
    def _programs(self) -> int:
        """How many programs keep the device busy."""
        if self.device.type != "cuda":
            return INTERPRETED
        return 2 * int(torch.cuda.get_device_properties(self.device).multi_processor_count)

    def try_out(self) -> None:
        """Unavailable where a small product cannot be had, for want of a C compiler for example."""
        codes = Codes(
            codes=torch.full((1, UNIT), 3, dtype=torch.uint8),
            table=torch.arange(16.0),
            group=UNIT,
            scales=torch.ones(1, 1),
        )
        try:
            form = form_of(codes)
            stored = StoredCodes(codes, form, 1, self.device)
            stored.load(0, codes, form)
            out = torch.empty(1, 1, dtype=self.compute, device=self.device)
            self.multiply(stored, torch.ones(1, UNIT, dtype=self.compute, device=self.device), None, out)
            found = float(out)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            raise Unavailable(f"Triton's kernels cannot be had here: {type(error).__name__}: {reason:.300}") from error
        if found != 3 * UNIT:
            raise Unavailable(f"Triton's kernels are wrong here: {found} came out where {3 * UNIT} is due")

    def say(self, text: str) -> None:
        """Once, not for each weight."""
        if text not in self._said:
            self._said.add(text)
            log.info("%s", text)

    def multiply(self, stored: StoredCodes, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """out [rows, outputs] = x [rows, inputs] times the weight, plus the bias; at most FEW rows."""
        rows, tile = len(x), _tile(len(x))
        blocks = -(-stored.rows // TILE)
        parts = max(1, min(self._programs // blocks, stored.units // 4))
        sums = out if parts == 1 else torch.empty(parts, rows, stored.rows, dtype=torch.float32, device=x.device)
        self._launch(
            (blocks, parts, 1),
            stored,
            x,
            sums.flatten(0, -2),
            bias if parts == 1 else None,
            rows=rows,
            part_stride=0 if parts == 1 else sums.stride(0),
            part_units=-(-stored.units // parts),
            ROWS=tile,
        )
        if parts > 1:
            whole = sums.sum(0)
            out.copy_(whole if bias is None else whole + bias)

    def multiply_experts(
        self, stored: StoredCodes, x: Tensor, ends: Tensor, bias: Tensor | None, out: Tensor, experts: int
    ) -> None:
        """The same of rows in the order of their experts; nothing waits for the device."""
        rows, tile = len(x), _tile(len(x) // experts)
        begins = torch.cat((ends.new_zeros(1), ends))  # the last one is of no expert
        tile_ends = ((ends - begins[:-1] + tile - 1) // tile).cumsum(0)
        tiles = torch.arange(rows // tile + experts, device=x.device)
        owners = torch.searchsorted(tile_ends, tiles, right=True)
        starts = begins[owners] + (tiles - torch.cat((tile_ends.new_zeros(1), tile_ends))[owners]) * tile
        self._launch(
            (-(-stored.rows // TILE), 1, len(tiles)),
            stored,
            x,
            out,
            bias,
            rows=rows,
            part_stride=0,
            part_units=stored.units,
            ROWS=tile,
            owners=owners,
            starts=starts,
            ends=ends,
            experts=experts,
        )

    def _current(self) -> AbstractContextManager[object]:
        """Kernels are launched on the device that is current."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _launch(
        self,
        grid: tuple[int, int, int],
        stored: StoredCodes,
        x: Tensor,
        out: Tensor,
        bias: Tensor | None,
        owners: Tensor | None = None,
        starts: Tensor | None = None,
        ends: Tensor | None = None,
        experts: int = 1,
        **more: int,
    ) -> None:
        with self._current():
            self._kernels.product[grid](
                x=x,
                out=out,
                bias=bias,
                owners=owners,
                starts=starts,
                ends=ends,
                outputs=stored.rows,
                x_stride=x.stride(0),
                out_stride=out.stride(0),
                bias_stride=0 if bias is None or bias.dim() == 1 else bias.stride(0),
                experts=experts,
                OUTPUTS=TILE,
                WIDE=self.device.type == "cpu",
                **stored.arguments(),
                **more,
            )

    def values(self, stored: StoredCodes, dtype: torch.dtype, numbers: Tensor | None = None) -> Tensor:
        """The weights [rows, inputs] of the rows with these numbers, or of all, inputs in the order of the codes."""
        rows = stored.rows if numbers is None else len(numbers)
        out = torch.empty(rows, stored.inputs, dtype=dtype, device=self.device)
        with self._current():
            self._kernels.values[(-(-rows // TILE), stored.units)](
                out=out, numbers=numbers, rows=rows, out_stride=out.stride(0), OUTPUTS=TILE, **stored.arguments()
            )
        return out

    def rows_of_float8(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows rounded to float8_e4m3fn, and the scale [rows, 1] of each in float32."""
        dtype = torch.float8_e4m3fn if x.device.type == "cuda" else torch.float32  # the interpreter rounds to no float8
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
        with self._current():
            self._kernels.rows_of_float8[(len(x),)](
                x, out, scales, x.shape[1], x.stride(0), LARGEST=LARGEST, INPUTS=1024
            )
        return out.to(torch.float8_e4m3fn), scales


def _tile(rows: int) -> int:
    """Rows of a program: at least what a unit multiplies at once."""
    return 16 if rows <= 16 else 32 if rows <= 32 else 64


class Part(Protocol):
    """Some rows of a weight."""

    rows: int

    @property
    def nbytes(self) -> int: ...

    def multiply(self, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """out [rows of x, rows] = x times the part, plus the bias."""

    def embedding(self, ids: Tensor) -> Tensor:
        """Its rows with these numbers, in float32."""
        ...


class CodedPart:
    """Rows that are codes."""

    def __init__(self, kernels: Kernels, codes: Codes, form: Form) -> None:
        self._kernels = kernels
        self._stored = StoredCodes(codes, form, 1, kernels.device)
        self._stored.load(0, codes, form)
        self.rows = self._stored.rows

    @property
    def nbytes(self) -> int:
        return self._stored.nbytes

    def multiply(self, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        stored = self._stored
        x = x if stored.order is None else x[:, stored.order[0]]
        if len(x) <= FEW:
            self._kernels.multiply(stored, x, bias, out)
            return
        weight = self._kernels.values(stored, x.dtype)
        if bias is None:
            torch.mm(x, weight.T, out=out)
        else:
            torch.addmm(bias.to(x.dtype), x, weight.T, out=out)

    def embedding(self, ids: Tensor) -> Tensor:
        values = self._kernels.values(self._stored, torch.float32, ids)
        if self._stored.order is None:
            return values
        return torch.empty_like(values).index_copy_(1, self._stored.order[0], values)


class PlainPart:
    """Rows that are no codes."""

    def __init__(self, rows: Tensor) -> None:
        self._weight = rows.clone()
        self.rows = len(rows)

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes

    def multiply(self, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        if bias is None:
            torch.mm(x, self._weight.T, out=out)
        else:
            torch.addmm(bias.to(x.dtype), x, self._weight.T, out=out)

    def embedding(self, ids: Tensor) -> Tensor:
        return self._weight[ids].float()


class DeviceCodes:
    """A CodesLinear [outputs, inputs] that SupportsPlainRows: its parts in the order of rows."""

    def __init__(self, kernels: Kernels, outputs: int, inputs: int) -> None:
        self._kernels, self._outputs, self._inputs = kernels, outputs, inputs
        self._parts: list[tuple[int, Part]] = []

    @property
    def nbytes(self) -> int:
        """The bytes of codes, tables and numbers, and of rows that are none."""
        return sum(part.nbytes for _, part in self._parts)

    def load_codes(self, codes: Codes, first: int) -> None:
        kernels, form = self._kernels, form_of(codes)
        if form.meaning == "float8" and kernels.float8 and is_by_rows(codes, form):
            kernels.say(
                "rows are rounded to float8_e4m3fn, with a scale each, where they are multiplied by weights of it"
            )
            self._add(first, Float8Rows(codes, kernels.rows_of_float8, kernels.device))
        else:
            kernels.say(f"up to {FEW} rows are multiplied by codes as they are, for more rows weights are decoded")
            self._add(first, CodedPart(kernels, codes, form))

    def load_rows(self, rows: Tensor, first: int) -> None:
        self._add(first, PlainPart(rows.to(self._kernels.compute)))

    def _add(self, first: int, part: Part) -> None:
        if first + part.rows > self._outputs:
            raise ModelError(f"rows {first} to {first + part.rows} of codes are loaded into {self._outputs}")
        self._parts = sorted((*self._parts, (first, part)), key=lambda each: each[0])

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = _rows(x, self._inputs)
        out = flat.new_empty(len(flat), self._outputs)
        if len(flat):
            for first, part in self._parts:
                last = first + part.rows
                part.multiply(flat, None if bias is None else bias[first:last], out[:, first:last])
        return out.view(*x.shape[:-1], self._outputs)

    def embedding(self, ids: Tensor) -> Tensor:
        """Every part gives a row for every number, and that of the part which has it is taken: nothing waits."""
        out = torch.empty(len(ids), self._inputs, dtype=torch.float32, device=ids.device)
        if len(ids):
            for first, part in self._parts:
                own = ids - first
                here = ((own >= 0) & (own < part.rows))[:, None]
                out = torch.where(here, part.embedding(own.clamp(0, part.rows - 1)), out)
        return out


class DeviceExpertCodes:
    """CodesExperts [experts, outputs, inputs]. Each part of a projection is one call for all experts."""

    def __init__(self, kernels: Kernels, experts: int, outputs: int, inputs: int) -> None:
        self._kernels, self._experts, self._outputs, self._inputs = kernels, experts, outputs, inputs
        self._parts: dict[int, StoredCodes] = {}

    @property
    def nbytes(self) -> int:
        """The bytes of codes, tables and numbers."""
        return sum(stored.nbytes for stored in self._parts.values())

    def load_codes(self, expert: int, codes: Codes, first: int) -> None:
        if first + len(codes.codes) > self._outputs:
            raise ModelError(f"rows {first} to {first + len(codes.codes)} of codes are loaded into {self._outputs}")
        stored, form = self._parts.get(first), form_of(codes)
        if stored is None:
            stored = self._parts[first] = StoredCodes(codes, form, self._experts, self._kernels.device)
        stored.load(expert, codes, form)

    def multiply(self, x: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
        x = _rows(x, self._inputs)
        out = x.new_empty(len(x), self._outputs)
        if not len(x):
            return out
        for first, stored in self._parts.items():
            last = first + stored.rows
            own = None if bias is None else bias[:, first:last]
            given = x if stored.order is None else x.gather(1, stored.order[_owners(ends, len(x))])
            self._kernels.multiply_experts(stored, given, ends, own, out[:, first:last], self._experts)
        return out


def _owners(ends: Tensor, rows: int) -> Tensor:
    """The expert of each row; rows that belong to none, if any, count for the last."""
    owners = torch.searchsorted(ends, torch.arange(rows, device=ends.device), right=True)
    return owners.clamp(max=len(ends) - 1)


def _rows(x: Tensor, inputs: int) -> Tensor:
    """[rows, inputs] with neighbouring inputs beside each other."""
    flat = x.reshape(-1, inputs)
    return flat if flat.stride(-1) == 1 else flat.contiguous()
