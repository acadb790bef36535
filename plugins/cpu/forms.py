"""The forms in which codes lie in panels: of the fewest bits that have them, as rows of some type are multiplied.

Codes of at most 16 levels take 4 bits, whatever the table; those that count from a first value on take 5, 6 or 8 bits,
floats of 8 bits and any other table take 8. Rows that are whole numbers of bytes need tables of whole numbers, or of
halves, which their forms have as bytes.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes

__all__ = ["Form", "Stored", "by_bytes", "by_floats"]

_WHOLE = 1 << 20  # what codes may count from at most, so that floats hold all they count to
_BASES = 256  # the same for rows of bytes


class Form(IntEnum):
    """`Form` of codes.h."""

    NIBBLES = 0
    FIVES = 1
    SIXES = 2
    BYTES = 3
    FLOATS = 4
    INDICES = 5
    QUAD_FIVES = 6
    QUAD_SIXES = 7
    QUAD_BYTES = 8
    PLAIN = 9  # no codes, but values


class Stored(msgspec.Struct, frozen=True):
    """Codes as a form has them: `table` is what each of them means, `zeros` are what is subtracted from that.

    For rows of bytes a code means `unit` times what the `lookup` has for it, or times the code, each plus `base`.
    """

    form: Form
    codes: Tensor
    table: Tensor
    zeros: Tensor | None
    base: int = 0
    unit: float = 1.0
    lookup: Tensor | None = None


def by_floats(codes: Codes) -> Stored:
    """The codes in the form of the fewest bits that has them, for rows of floats."""
    table = codes.table.float()
    if len(table) <= 16:
        return Stored(Form.NIBBLES, codes.codes, _filled(table, 16), codes.zeros)
    return _counted(codes, table) or _floats(codes, table) or _signed(codes, table) or _indices(codes, table)


def _indices(codes: Codes, table: Tensor) -> Stored:
    return Stored(Form.INDICES, codes.codes, _filled(table, 256), codes.zeros)


def _counted(codes: Codes, table: Tensor) -> Stored | None:
    """Codes that count from a whole number on, in 5 or 6 bits."""
    if len(table) > 64 or not _counts(table):
        return None
    whole_chunks = codes.group % 32 == 0 or codes.group >= codes.codes.shape[1]
    form = Form.FIVES if len(table) <= 32 and whole_chunks else Form.SIXES
    return Stored(form, codes.codes, table[0] + torch.arange(64.0), codes.zeros)


def _counts(table: Tensor) -> bool:
    first = float(table[0])
    whole = first == int(first) if abs(first) < _WHOLE else False
    return whole and torch.equal(table, first + torch.arange(float(len(table))))


def _floats(codes: Codes, table: Tensor) -> Stored | None:
    """Codes that are the bits of float8_e4m3fn, none of which is NaN."""
    meant = _every_byte().view(torch.float8_e4m3fn).float()
    if len(table) != 256 or not torch.equal(table.nan_to_num(0.0), meant.nan_to_num(0.0)):
        return None
    if ((codes.codes & 0x7F) == 0x7F).any():
        return None
    return Stored(Form.FLOATS, codes.codes, meant.nan_to_num(0.0), codes.zeros)


def _signed(codes: Codes, table: Tensor) -> Stored | None:
    """Codes whose table is whole numbers one after another, as bytes or as unsigned ones: bytes, and what is missing
    from the table is subtracted with the zeros."""
    table = _filled(table, 256)
    meant = _every_byte().view(torch.int8).float()
    if torch.equal(table, meant):
        return Stored(Form.BYTES, codes.codes, meant, codes.zeros)
    if not _counts(codes.table.float()):
        return None
    base = float(table[0]) + 128
    old = torch.zeros(codes.scales.shape) if codes.zeros is None else codes.zeros.float()
    zeros = old - base
    if not torch.equal(zeros.double(), old.double() - base) or not torch.equal(zeros, zeros.round()):
        return None
    return Stored(Form.BYTES, codes.codes ^ 0x80, meant, zeros if zeros.any() else None)


def _every_byte() -> Tensor:
    return torch.arange(256, dtype=torch.uint8)


def _filled(table: Tensor, size: int) -> Tensor:
    return torch.cat((table, table.new_zeros(size - len(table))))


def by_bytes(codes: Codes) -> Stored | None:
    """The codes in the form of the fewest bits that has them, for rows of bytes; None where their table has other
    numbers than multiples of one unit that a byte can count."""
    for unit in (1.0, 0.5):
        table = codes.table.float() / unit
        if torch.equal(table, table.round()) and float(table.abs().max()) <= _BASES:
            made = _quads(codes, table, unit) if _counts(table) else _quad_bytes(codes, table, unit)
            if made is not None:
                return made
    return None


def _quads(codes: Codes, table: Tensor, unit: float) -> Stored:
    """Codes that count, as they are."""
    whole_chunks = codes.group % 32 == 0 or codes.group >= codes.codes.shape[1]
    if len(table) <= 16:
        form = Form.NIBBLES
    elif len(table) <= 32 and whole_chunks:
        form = Form.QUAD_FIVES
    else:
        form = Form.QUAD_SIXES if len(table) <= 64 else Form.QUAD_BYTES
    meant = (table[0] + torch.arange(256.0)) * unit
    return Stored(form, codes.codes, meant, codes.zeros, int(table[0]), unit)


def _quad_bytes(codes: Codes, table: Tensor, unit: float) -> Stored | None:
    """Codes of any table of signed bytes: looked up where they are nibbles, else stored as what they mean."""
    if not _within_bytes(table):
        return None
    lookup = (table + 128).to(torch.uint8)
    if len(table) <= 16:
        return Stored(
            Form.NIBBLES, codes.codes, _filled(codes.table.float(), 16), codes.zeros, -128, unit, _filled(lookup, 16)
        )
    meant = (torch.arange(256.0) - 128) * unit
    return Stored(Form.QUAD_BYTES, lookup[codes.codes.int()], meant, codes.zeros, -128, unit)


def _within_bytes(table: Tensor) -> bool:
    return bool(((table >= -128) & (table <= 127)).all())
