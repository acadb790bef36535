"""The compiled functions, as Python calls them. Signatures are those at the end of each source."""

from __future__ import annotations

import ctypes
import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch

from maxserve.interfaces.component import Context
from maxserve.interfaces.errors import SettingsError, Unavailable
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.compiler import compiled_library

log = logging.getLogger("maxserve.native")

SLOWER = "torch's own operations serve instead, which is slower"

_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ms_pack": (_POINTER, _LONG, _LONG, _POINTER, _LONG, _LONG, _LONG),
    "ms_rows": (_POINTER, _LONG, _POINTER, _LONG, _LONG, _POINTER),
    "ms_linear": (_POINTER, _LONG, _POINTER, _LONG, _POINTER, _POINTER, _LONG, _LONG, _LONG),
    "ms_experts": (_POINTER, _LONG, _POINTER, _LONG, *(_POINTER,) * 3, _LONG, _LONG, _LONG),
    "ms_codes_chunk": (_LONG,),
    "ms_codes_bytes": (_LONG,) * 3,
    "ms_codes_pack": (_POINTER, _LONG, _LONG, _POINTER, _LONG, _LONG),
    "ms_codes_rows": (_POINTER, _POINTER, _LONG, _LONG, _POINTER),
    "ms_codes_linear": (_POINTER, _LONG, *(_POINTER,) * 3, _LONG, _LONG, _LONG, _LONG),
    "ms_codes_experts": (_POINTER, _LONG, *(_POINTER,) * 4, _LONG, _LONG, _LONG),
    "ms_attend": (
        *(_POINTER,) * 11,
        _LONG,
        _LONG,
        _FLOAT,
        _FLOAT,
        _POINTER,
    ),
    "ms_drafts": (_POINTER,),
    "ms_layers": (_POINTER, _POINTER, _LONG, *(_POINTER,) * 5, _LONG, _LONG),
}
_GIVES_LONG = frozenset({"ms_codes_chunk", "ms_codes_bytes"})


class Library(Protocol):
    """What the sources export. Addresses are whole numbers, sizes and steps count elements."""

    def ms_width(self) -> int: ...
    def ms_matrix_units(self) -> int: ...
    def ms_dot_units(self) -> int: ...
    def ms_byte_units(self) -> int: ...
    def ms_pack(self, *arguments: Any) -> None: ...
    def ms_rows(self, *arguments: Any) -> None: ...
    def ms_linear(self, *arguments: Any) -> None: ...
    def ms_experts(self, *arguments: Any) -> None: ...
    def ms_codes_chunk(self, form: int) -> int: ...
    def ms_codes_bytes(self, form: int, rows: int, inputs: int) -> int: ...
    def ms_codes_pack(self, *arguments: Any) -> None: ...
    def ms_codes_rows(self, *arguments: Any) -> None: ...
    def ms_codes_linear(self, *arguments: Any) -> None: ...
    def ms_codes_experts(self, *arguments: Any) -> None: ...
    def ms_attend(self, *arguments: Any) -> None: ...
    def ms_drafts(self, *arguments: Any) -> None: ...
    def ms_layers(self, *arguments: Any) -> None: ...


def rounds(library: Library, precision: str) -> bool:
    """Whether rows are rounded to bfloat16 where they are multiplied by bfloat16."""
    units = bool(library.ms_matrix_units() or library.ms_dot_units())
    if precision == "fast" and not units:
        raise SettingsError(
            "--native.precision fast: this processor has no products of bfloat16 (AVX512_BF16 or AMX), so rounding "
            "would gain nothing; use auto or exact"
        )
    return units and precision != "exact"


class _ComputingContext(Protocol):
    @property
    def compute(self) -> torch.dtype: ...


def library_for(context: Context) -> Library:
    """The library, compiled if need be; Unavailable where it cannot be."""
    config = context.config(Config)
    found = _library_or_reason(config.compiler, config.folder)
    if isinstance(found, str):
        raise Unavailable(found)
    return _opened(str(found))


@cache
def _library_or_reason(compiler: str, folder: str) -> Path | str:
    """Several components ask: what cannot be compiled is tried once, and its reason is the same for all."""
    try:
        return compiled_library(compiler, folder)
    except Unavailable as error:
        return f"{error}; {SLOWER}"


def only_float32(context: _ComputingContext) -> None:
    """Unavailable when the model is to be computed in another type: the kernels know float32 alone."""
    if context.compute != torch.float32:
        raise Unavailable(f"the native kernels compute in float32, not in {context.compute}")


@lru_cache
def _opened(path: str) -> Library:
    try:
        library: Any = ctypes.CDLL(path)
    except OSError as error:
        raise Unavailable(f"the compiled kernels cannot be loaded: {error}; {SLOWER}") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = _LONG if name in _GIVES_LONG else None
    opened: Library = library
    if opened.ms_matrix_units():
        log.info("kernels multiply on the processor's matrix units: a float32 there is three bfloat16, to the bit")
    return opened


def rows(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32, with a last axis whose elements are neighbours."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()
