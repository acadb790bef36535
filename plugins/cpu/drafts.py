"""All drafts of a head in one call of compiled code."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from maxserve.loading import Embedding
from maxserve.plugins.cpu.library import Library, rows
from maxserve.plugins.cpu.panels import Panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from maxserve.interfaces.step_context import StepContext
    from maxserve.plugins.cpu.attention import NativeAttention

TABLES = {torch.float32: 0, torch.bfloat16: 1}  # types of tables in rows, as the source numbers them


class Drafting(ctypes.Structure):
    """`Drafting` of layers.cpp."""

    _fields_ = (
        ("program", ctypes.c_void_p),
        ("behind", ctypes.c_int64),
        ("frames", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("sequences", ctypes.c_int64),
        ("lasts", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("on", ctypes.c_void_p),
        ("continuing", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("packed", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("rotations", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("arena_behind", ctypes.c_void_p),
        ("drafts", ctypes.c_void_p),
    )


class Cell(Protocol):
    """The operations of the cell of a head: a program of layers.py."""

    attention: NativeAttention
    inputs: int
    dim: int
    width: int
    behind_attention: int

    def listing(self) -> ctypes.Structure: ...
    def frame(self, context: StepContext) -> tuple[int, ...]: ...


class Memory(Protocol):
    """What gives memory for a call: the arena of layers.py."""

    def take(self, size: int) -> Tensor: ...


class NativeDrafts:
    """What calls the cell of a head once for each draft."""

    def __init__(self, library: Library, arena: Memory, program: Cell) -> None:
        self._library, self._arena, self._program = library, arena, program
        self._listing = program.listing()
        self._call = Drafting(program=ctypes.addressof(self._listing), behind=program.behind_attention)

    def __call__(
        self,
        x: Tensor,
        first: StepContext,
        lasts: NDArray[np.int64],
        then: StepContext | None,
        on: NDArray[np.int64],
        table: nn.Module,
        ids: Tensor | None,
    ) -> Tensor | None:
        """The likeliest drafts [len(lasts) + rows of `then`]; None where this knows no such table."""
        call, (tokens, inputs) = self._call, x.shape
        if inputs != self._program.inputs or not self._find(table):
            return None
        frames, alive = self._frames((first,) if then is None else (first, then))
        x, count = rows(x).contiguous(), len(lasts)
        drafts = torch.empty(count + (0 if then is None else len(then.inputs.positions)), dtype=torch.int64)
        call.frames, call.x, call.tokens, call.sequences = frames.ctypes.data, x.data_ptr(), tokens, alive[0].sequences
        call.lasts, call.count, call.on, call.continuing = lasts.ctypes.data, count, on.ctypes.data, len(on)
        call.ids, call.drafts = None if ids is None else ids.data_ptr(), drafts.data_ptr()
        memory = self._lay_out(tokens, count, int(frames[-1, 1]))
        self._library.ms_drafts(ctypes.addressof(call))
        del memory, alive
        return drafts

    def _frames(self, contexts: Sequence[StepContext]) -> tuple[NDArray[np.int64], list[Any]]:
        """The frames of these, and what must live as long."""
        found, alive = [], []
        for context in contexts:
            context.attention.begin(context.inputs)
            found.append(self._program.frame(context))
            alive.append(self._program.attention.step)
        return np.array(found, dtype=np.int64), alive

    def _lay_out(self, tokens: int, count: int, rotated: int) -> Tensor:
        """Memory for what is computed: results, inputs, rotations and an arena of `count` rows, and one of `tokens`."""
        call, program = self._call, self._program
        floats = (program.dim, program.inputs, rotated, program.width)
        sizes = [-(-count * each // 16) * 16 for each in floats]
        memory = self._arena.take(sum(sizes) + tokens * program.width)
        call.out = memory.data_ptr()
        call.next = call.out + sizes[0] * memory.itemsize
        call.rotations = call.next + sizes[1] * memory.itemsize
        call.arena_behind = call.rotations + sizes[2] * memory.itemsize
        call.arena = call.arena_behind + sizes[3] * memory.itemsize
        return memory

    def _find(self, table: nn.Module) -> bool:
        """Notes where the table of embeddings lies; whether that is known."""
        if not isinstance(table, Embedding):
            return False
        call, packed, weight = self._call, table.packed, table.weight
        call.dim = table.inputs
        if isinstance(packed, Panels):
            call.table, call.packed, call.kind = packed.address, 1, packed.kind
            return True
        if packed is None and weight is not None and weight.dtype in TABLES and weight.is_contiguous():
            call.table, call.packed, call.kind = weight.data_ptr(), 0, TABLES[weight.dtype]
            return True
        return False
