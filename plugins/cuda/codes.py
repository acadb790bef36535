"""Codes in the memory of a device, in their own bits, for the kernels of kernels.py.

Inputs come in units of 64. Codes of 8 bits lie as they are. Of narrower ones, byte i of a unit's 32 has the four lowest
bits of input i and of input 32 + i; fifth bits are 8 bytes a unit, with input i in byte i % 8, and fifth and sixth ones
16 bytes, with input i in byte i % 16. Numbers of groups stay as compact as they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maxserve.interfaces.codes import Codes
from maxserve.interfaces.errors import ModelError
from maxserve.quantization import narrowed

__all__ = ["UNIT", "Form", "StoredCodes", "form_of"]

UNIT = 64  # inputs
NUMBERS = ("scales", "offsets", "zeros", "block_scales", "block_offsets")

_WHOLE = 1 << 20  # what codes may count from at most, so that float32 holds all they count to


@dataclass(frozen=True, slots=True)
class Form:
    """Codes of `bits` bits: what they mean is counted from `first` on, or a float8 that has these bits, or looked up.

    Before they are packed they are combined with `flipped` by exclusive or. `group` is 0 where it is a whole row.
    """

    bits: int
    meaning: Literal["counted", "float8", "looked up"]
    group: int
    block: int
    first: float = 0.0
    flipped: int = 0


def form_of(codes: Codes) -> Form:
    """The form of the fewest bits that has the codes, all of which may be looked at."""
    table, inputs = codes.table.float().cpu(), codes.codes.shape[1]
    group = codes.group if codes.group < inputs else 0
    bits = next((bits for bits in (4, 5, 6) if len(table) <= 1 << bits), 8)
    first = float(table[0])
    if abs(first) < _WHOLE and first == int(first) and torch.equal(table, first + torch.arange(float(len(table)))):
        return Form(bits, "counted", group, codes.block, first)
    every = torch.arange(256, dtype=torch.uint8)
    if torch.equal(table, every.view(torch.int8).float()):
        return Form(8, "counted", group, codes.block, -128.0, flipped=0x80)
    if _is_float8(table) and not bool(((codes.codes & 0x7F) == 0x7F).any()):
        return Form(8, "float8", group, codes.block)
    return Form(bits, "looked up", group, codes.block)


def _is_float8(table: Tensor) -> bool:
    meant = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return len(table) == 256 and torch.equal(table.nan_to_num(0.0), meant.nan_to_num(0.0))


class StoredCodes:
    """The codes of some rows of a weight, or of the same rows of all of a stack of weights, on a device."""

    def __init__(self, codes: Codes, form: Form, entries: int, device: torch.device) -> None:
        self.form = form
        self.rows, self.inputs = codes.codes.shape
        self.units = -(-self.inputs // UNIT)
        self.order: Tensor | None = None  # [entries, inputs]
        bytes = self.units * (64 if form.bits == 8 else 32)
        self.low = torch.zeros(entries, self.rows, bytes, dtype=torch.uint8, device=device)
        self.high: Tensor | None = None
        if self.form.bits in (5, 6):
            bits = self.units * (8 if self.form.bits == 5 else 16)
            self.high = torch.zeros(entries, self.rows, bits, dtype=torch.uint8, device=device)
        self.table: Tensor | None = None
        if self.form.meaning == "looked up":
            self.table = codes.table.float().to(device)
        self.numbers: dict[str, Tensor] = {}
        self._entries, self._device = entries, device

    @property
    def nbytes(self) -> int:
        tensors = (self.low, self.high, self.table, self.order, *self.numbers.values())
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def load(self, entry: int, codes: Codes, form: Form) -> None:
        """Takes the codes of one weight; ModelError where they are others than those of the first."""
        if codes.codes.shape != (self.rows, self.inputs) or form != self.form:
            raise ModelError(f"codes {list(codes.codes.shape)} of {codes.layout} are loaded among others")
        given = F.pad(codes.codes.to(self._device) ^ self.form.flipped, (0, self.units * UNIT - self.inputs))
        units = given.view(self.rows, self.units, UNIT)
        if self.form.bits == 8:
            self.low[entry] = given
        else:
            self.low[entry] = (units[..., :32] & 15 | (units[..., 32:] & 15) << 4).flatten(1)
        if self.high is not None:
            self.high[entry] = _gathered(units >> 4, self.form.bits - 4).flatten(1)
        for name in NUMBERS:
            own = getattr(codes, name)
            if own is not None:
                self._put(name, entry, narrowed(own))
        if codes.order is not None:
            if self.order is None:
                self.order = torch.arange(self.inputs, device=self._device).repeat(self._entries, 1)
            self.order[entry] = codes.order.to(self._device)

    def _put(self, name: str, entry: int, numbers: Tensor) -> None:
        """Has the numbers of one entry, in the type of the others, or all in float32."""
        held = self.numbers.get(name)
        if held is None:
            held = torch.zeros(self._entries, *numbers.shape, dtype=numbers.dtype, device=self._device)
        elif held.dtype != numbers.dtype:
            held = held.float()
        held[entry] = numbers
        self.numbers[name] = held

    def arguments(self) -> dict[str, Any]:
        """What kernels are told of them."""
        scales, blocks = self.numbers["scales"], self.numbers.get("block_scales", self.numbers.get("block_offsets"))
        return {
            "low": self.low,
            "high": self.high,
            "table": self.table,
            "first": self.form.first,
            **{name: self.numbers.get(name) for name in NUMBERS},
            "inputs": self.inputs,
            "units": self.units,
            "groups": scales.shape[-1],
            "blocks": 0 if blocks is None else blocks.shape[-1],
            "GROUP": self.form.group,
            "BLOCK": self.form.block,
            "BITS": self.form.bits,
            "FLOAT8": self.form.meaning == "float8",
        }


def _gathered(units: Tensor, bits: int) -> Tensor:
    """The lowest `bits` bits of each input of units [rows, units, UNIT], as bytes."""
    many = 8 // bits
    apart = (units & (1 << bits) - 1).view(*units.shape[:-1], many, UNIT // many)
    shifts = torch.arange(many, dtype=torch.uint8, device=units.device)[:, None] * bits
    return (apart << shifts).sum(-2, dtype=torch.uint8)
