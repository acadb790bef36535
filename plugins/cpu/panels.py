"""Products with weights in panels: WIDTH outputs side by side, input by input.

A panel is read once, in order, whatever the number of rows, which is as fast as memory gives it when rows are few. Each
sum runs over the inputs in order, so a row's numbers do not depend, to the bit, on the rows beside it.

bfloat16 weights lie in pairs of inputs. With `exact` precision they are widened as they are read, and the arithmetic
is that of float32; with `fast` the rows are rounded to bfloat16, and sums are in float32. Where the processor has
matrix units (AMX), they multiply bfloat16 weights by rows that are rounded, or split into three bfloat16 each, which
together are the float32; and in compiled layers (layers.py) float32 weights, split likewise, by the tokens of prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maxserve.plugins.cpu.library import Library, rows
from maxserve.plugins.cpu.memory import weight_memory

__all__ = ["BFLOAT16", "BFLOAT16_ROUNDS", "FLOAT32", "ExpertPanels", "Panels"]

FLOAT32, BFLOAT16, BFLOAT16_ROUNDS = 0, 1, 2  # `Weights` of parts.h


def _room(library: Library, outputs: int, inputs: int, kind: int) -> tuple[int, torch.dtype]:
    """Entries and type of the panels of a weight."""
    width = library.ms_width()
    columns = -(-outputs // width) * width
    return (columns * inputs, torch.float32) if kind == FLOAT32 else (columns * (inputs + inputs % 2), torch.bfloat16)


class Panels:
    """A PackedLinear [outputs, inputs] of float32 or bfloat16."""

    __slots__ = ("_inputs", "_library", "_outputs", "_packed", "address", "kind")

    def __init__(self, library: Library, outputs: int, inputs: int, kind: int) -> None:
        self._library, self._outputs, self._inputs, self.kind = library, outputs, inputs, kind
        size, dtype = _room(library, outputs, inputs, kind)
        self._packed = weight_memory.zeros(size, dtype=dtype)
        self.address = self._packed.data_ptr()

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes

    def load_rows(self, rows: Tensor, first: int) -> None:
        rows = rows.contiguous()
        self._library.ms_pack(rows.data_ptr(), rows.stride(0), self.kind, self.address, first, len(rows), self._inputs)

    def embedding(self, ids: Tensor) -> Tensor:
        """Read across the panels: slower than from a table, and nothing beside what is computed with a row."""
        out, ids = torch.empty(len(ids), self._inputs, dtype=self._packed.dtype), ids.contiguous()
        self._library.ms_rows(self.address, self.kind, ids.data_ptr(), len(ids), self._inputs, out.data_ptr())
        return out

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = rows(x if x.dim() == 2 else x.reshape(-1, self._inputs))
        count = flat.shape[0]
        out = torch.empty(count, self._outputs)
        self._library.ms_linear(
            flat.data_ptr(),
            flat.stride(0),
            self.address,
            self.kind,
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

    __slots__ = ("_inputs", "_kind", "_library", "_outputs", "_packed")

    def __init__(self, library: Library, experts: int, outputs: int, inputs: int, kind: int) -> None:
        self._library, self._outputs, self._inputs, self._kind = library, outputs, inputs, kind
        size, dtype = _room(library, outputs, inputs, kind)
        self._packed = weight_memory.zeros(experts, size, dtype=dtype)

    def load_rows(self, expert: int, rows: Tensor, first: int) -> None:
        rows = rows.contiguous()
        packed = self._packed[expert]
        self._library.ms_pack(
            rows.data_ptr(), rows.stride(0), self._kind, packed.data_ptr(), first, len(rows), self._inputs
        )

    def multiply(self, x: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
        x, ends = rows(x), ends.contiguous()
        out = torch.empty(len(x), self._outputs)
        self._library.ms_experts(
            x.data_ptr(),
            x.stride(0),
            self._packed.data_ptr(),
            self._kind,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            ends.data_ptr(),
            len(ends),
            self._inputs,
            self._outputs,
        )
        return out
