"""Products with weights in panels: WIDTH outputs side by side, input by input.

A panel is read once, in order, whatever the number of rows, which is as fast as memory gives it when rows are few. Each
sum runs over the inputs in order, so a row's numbers do not depend, to the bit, on the rows beside it. bfloat16 weights
are widened as they are read: half the memory to hold and to read, and the arithmetic stays float32.

Where the processor has matrix units for bfloat16 (AMX), they multiply bfloat16 weights by rows that are split into
three bfloat16 each, which together are the float32; and in compiled layers (layers.py) float32 weights, split likewise,
by the tokens of prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cpu.library import Library, library_for, only_float32, rows


class PanelMethod:
    """A BuiltLinearMethod."""

    def __init__(self, context: LinearContext) -> None:
        only_float32(context)
        self._library = library_for(context)

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """bfloat16 stays, all else becomes float32: float16 has bits that bfloat16 would lose."""
        return torch.bfloat16 if checkpoint == torch.bfloat16 else torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> Panels | None:
        return Panels(self._library, outputs, inputs, dtype)

    def create_experts(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> ExpertPanels | None:
        return ExpertPanels(self._library, experts, outputs, inputs, dtype)


class Panels:
    """A PackedLinear [outputs, inputs] of float32 or bfloat16."""

    __slots__ = ("_inputs", "_library", "_outputs", "_packed", "address", "itemsize")

    def __init__(self, library: Library, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        width = library.ms_width()
        self._library, self._outputs, self._inputs = library, outputs, inputs
        self._packed = torch.zeros(-(-outputs // width) * width * inputs, dtype=dtype)
        self.itemsize = dtype.itemsize
        self.address = self._packed.data_ptr()

    def load_rows(self, rows: Tensor, first: int) -> None:
        rows = rows.contiguous()
        self._library.ms_pack(
            rows.data_ptr(), rows.stride(0), self.itemsize, self.address, first, len(rows), self._inputs
        )

    def embedding(self, ids: Tensor) -> Tensor:
        """Read across the panels: slower than from a table, and nothing beside what is computed with a row."""
        out = torch.empty(len(ids), self._inputs, dtype=self._packed.dtype)
        self._library.ms_rows(
            self.address, self.itemsize, ids.contiguous().data_ptr(), len(ids), self._inputs, out.data_ptr()
        )
        return out

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = rows(x if x.dim() == 2 else x.reshape(-1, self._inputs))
        count = flat.shape[0]
        out = torch.empty(count, self._outputs)
        self._library.ms_linear(
            flat.data_ptr(),
            flat.stride(0),
            self.address,
            self.itemsize,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            count,
            self._inputs,
            self._outputs,
        )
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self._outputs)


class ExpertPanels:
    """PackedExperts [experts, outputs, inputs] of float32 or bfloat16: the panels of each expert in a row of their own.

    All products of a mixture are one call, whose work is shared out in pieces of every expert's: few experts with many
    rows keep no thread waiting.
    """

    __slots__ = ("_inputs", "_library", "_outputs", "_packed")

    def __init__(self, library: Library, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        width = library.ms_width()
        self._library, self._outputs, self._inputs = library, outputs, inputs
        self._packed = torch.zeros(experts, -(-outputs // width) * width * inputs, dtype=dtype)

    def load_rows(self, expert: int, rows: Tensor, first: int) -> None:
        rows = rows.contiguous()
        packed = self._packed[expert]
        self._library.ms_pack(
            rows.data_ptr(), rows.stride(0), packed.itemsize, packed.data_ptr(), first, len(rows), self._inputs
        )

    def multiply(self, x: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
        x, ends = rows(x), ends.contiguous()
        out = torch.empty(len(x), self._outputs)
        self._library.ms_experts(
            x.data_ptr(),
            x.stride(0),
            self._packed.data_ptr(),
            self._packed.itemsize,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            ends.data_ptr(),
            len(ends),
            self._inputs,
            self._outputs,
        )
        return out
