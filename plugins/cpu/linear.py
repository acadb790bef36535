"""Products with weights in panels: WIDTH outputs side by side, input by input.

A panel is read once, in order, whatever the number of rows, which is as fast as memory gives it when rows are few. Each
sum runs over the inputs in order, so a row's numbers do not depend, to the bit, on the rows beside it.

bfloat16 weights lie in pairs of inputs. With `exact` precision they are widened as they are read, and the arithmetic
is that of float32; with `fast` the rows are rounded to bfloat16, and sums are in float32. Where the processor has
matrix units (AMX), they multiply bfloat16 weights by rows that are rounded, or split into three bfloat16 each, which
together are the float32; and in compiled layers (layers.py) float32 weights, split likewise, by the tokens of prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from maxserve.interfaces.codes import CodesLayout
from maxserve.interfaces.errors import SettingsError, Unavailable
from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.codes import CodePanels, CodeRows, ExpertCodePanels, takes
from maxserve.plugins.cpu.library import Library, library_for, only_float32, rounds, rows
from maxserve.plugins.cpu.memory import weight_memory

log = logging.getLogger("maxserve.native")

FLOAT32, BFLOAT16, BFLOAT16_ROUNDS = 0, 1, 2  # `Weights` of parts.h


class PanelMethod:
    """A BuiltLinearMethod."""

    def __init__(self, context: LinearContext) -> None:
        config = context.config(Config)
        self._library = _library(context, config.activations)
        self._rounds = rounds(self._library, config.precision)
        self._code_rows = _code_rows(config, rounds=self._rounds)
        _say(self._library, config, self._rounds)

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """bfloat16 stays, all else becomes float32: float16 has bits that bfloat16 would lose."""
        return torch.bfloat16 if checkpoint == torch.bfloat16 else torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> Panels | None:
        return Panels(self._library, outputs, inputs, self._kind(dtype))

    def create_experts(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> ExpertPanels | None:
        return ExpertPanels(self._library, experts, outputs, inputs, self._kind(dtype))

    def create_codes(self, outputs: int, inputs: int, layouts: Sequence[CodesLayout]) -> CodePanels | None:
        if not takes(self._library, inputs, layouts):
            return None
        return CodePanels(self._library, outputs, inputs, self._code_rows)

    def create_expert_codes(
        self, experts: int, outputs: int, inputs: int, layouts: Sequence[CodesLayout]
    ) -> ExpertCodePanels | None:
        if not takes(self._library, inputs, layouts):
            return None
        return ExpertCodePanels(self._library, experts, outputs, inputs, self._code_rows)

    def _kind(self, dtype: torch.dtype) -> int:
        return FLOAT32 if dtype != torch.bfloat16 else BFLOAT16_ROUNDS if self._rounds else BFLOAT16

    def row_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """bfloat16 where rows are rounded to it."""
        return torch.bfloat16 if checkpoint == torch.bfloat16 and self._rounds else torch.float32


_PLANES = {"float32": 0, "int16": 2, "int8": 1}


def _library(context: LinearContext, activations: str) -> Library:
    """The compiled kernels; SettingsError where they cannot be and activations are asked for that only they have."""
    try:
        only_float32(context)
        return library_for(context)
    except Unavailable as error:
        if activations == "float32":
            raise
        raise SettingsError(
            f"--native.activations {activations} is for the compiled kernels, and {error}; leave the option out"
        ) from error


def _code_rows(config: Config, *, rounds: bool) -> CodeRows:
    """How rows are multiplied by codes, with a line in the log where that is asked for."""
    if config.activations == "float32":
        return CodeRows("float32", planes=0, rounds=rounds and config.precision == "fast")
    log.info(
        "rows are multiplied by quantized weights as %s with a scale for at most 32 inputs (--native.activations %s: "
        "asked for)",
        config.activations,
        config.activations,
    )
    return CodeRows(config.activations, planes=_PLANES[config.activations], rounds=False)


def _say(library: Library, config: Config, fast: bool) -> None:
    precision = config.precision
    units = "AMX" if library.ms_matrix_units() else "AVX512_BF16" if library.ms_dot_units() else None
    reason = f"the processor has {units}" if units else "the processor has neither AVX512_BF16 nor AMX"
    log.info(
        "rows are multiplied by bfloat16 %s %s (--native.precision %s: %s)",
        "and quantized weights" if fast and precision == "fast" and config.activations == "float32" else "weights",
        "rounded to bfloat16, with sums in float32" if fast else "as float32",
        precision,
        reason if precision == "auto" else "asked for",
    )


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
