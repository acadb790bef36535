"""The linear method of the compiled kernels: weights in panels (panels.py), or as codes in such (codes.py)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from maxserve.interfaces.codes import CodesLayout
from maxserve.interfaces.errors import SettingsError, Unavailable
from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.codes import CodePanels, CodeRows, ExpertCodePanels, takes
from maxserve.plugins.cpu.library import Library, library_for, only_float32, rounds
from maxserve.plugins.cpu.panels import BFLOAT16, BFLOAT16_ROUNDS, FLOAT32, ExpertPanels, Panels

log = logging.getLogger("maxserve.native")


class PanelMethod:
    """A BuiltLinearMethod."""

    def __init__(self, context: LinearContext) -> None:
        config = context.config(Config)
        self._library = _library(context, config.activations)
        self._rounds = rounds(self._library, config.precision)
        self._code_rows = _code_rows(self._library, config, rounds=self._rounds)
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
        return CodePanels(self._library, outputs, inputs, self._code_rows, self._kind)

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


_PLANES = {"float32": 3, "int16": 2, "int8": 1}  # 24 bits are as exact as those of a float32


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


def _code_rows(library: Library, config: Config, *, rounds: bool) -> CodeRows:
    """How rows are multiplied by codes, with a line in the log where that is asked for."""
    if config.activations == "float32":
        rounds = rounds and config.precision == "fast"
        by_bytes = config.precision == "auto" and bool(library.ms_byte_units())
        return CodeRows("float32", planes=_PLANES["float32"] if by_bytes else 0, rounds=rounds)
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
