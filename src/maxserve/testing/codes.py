"""Random codes of every kind, for checks of what multiplies by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from maxserve.core.interfaces.codes import Codes

__all__ = ["CODES", "random_codes"]


def random_codes(kind: str, rows: int, inputs: int, seed: int = 0) -> Codes:
    """Codes of one of the kinds in CODES; what they mean is of about 1."""
    return CODES[kind](_Random(rows, inputs, seed))


class _Random:
    """Where random codes of a size come from."""

    def __init__(self, rows: int, inputs: int, seed: int) -> None:
        self.rows, self.inputs = rows, inputs
        self._generator = torch.Generator().manual_seed(seed + 1000 * rows + inputs)

    def whole(self, columns: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (self.rows, columns), generator=self._generator)

    def real(self, columns: int, size: float) -> Tensor:
        """Between half of `size` and `size`."""
        return size * (torch.rand(self.rows, columns, generator=self._generator) / 2 + 0.5)

    def order(self) -> Tensor:
        return torch.randperm(self.inputs, generator=self._generator)

    def groups(self, group: int) -> int:
        return -(-self.inputs // group)

    def made(self, table: Tensor, group: int) -> Codes:
        """Codes of all levels, a scale for each group, and nothing else."""
        codes = self.whole(self.inputs, 0, len(table)).to(torch.uint8)
        scales = self.real(self.groups(group), 1 / float(table.abs().max()))
        return Codes(codes=codes, table=table, group=group, scales=scales.half())

    def blocks(self, made: Codes, block: int, least: int) -> Codes:
        """The same with scales of whole numbers, which are scaled themselves."""
        groups, blocks = made.scales.shape[1], -(-made.scales.shape[1] // block)
        scales = self.whole(groups, least, 64).to(torch.int8 if least < 0 else torch.uint8)
        size = 1 / float(made.table.abs().max()) / 64
        return replace(made, scales=scales, block=block, block_scales=self.real(blocks, size).half())


def _levels(count: int, first: int) -> Tensor:
    return torch.arange(float(count)) + first


def _offsets(random: _Random) -> Codes:
    made = random.made(_levels(16, 0), 32)
    return replace(made, offsets=random.real(made.scales.shape[1], 0.5).half())


def _zeros(random: _Random) -> Codes:
    made = random.made(_levels(16, 0), 128)
    return replace(made, zeros=random.whole(made.scales.shape[1], 0, 16).float(), order=random.order())


def _zeros_of_bytes(random: _Random) -> Codes:
    made = random.made(_levels(256, 0), random.inputs)
    return replace(made, zeros=random.whole(1, 100, 150).float())


def _two_levels(random: _Random) -> Codes:
    made = random.blocks(random.made(_levels(16, 0), 32), 8, 0)
    groups, blocks = made.scales.shape[1], random.groups(256)
    offsets, sizes = random.whole(groups, 0, 64).to(torch.uint8), random.real(blocks, 1 / 128).half()
    return replace(made, offsets=offsets, block_offsets=sizes)


def _floats(random: _Random) -> Codes:
    table = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = random.whole(random.inputs, 0, 254)
    codes = (numbers + (numbers > 126)).to(torch.uint8)  # all but 127 and 255, which are no numbers
    return Codes(codes=codes, table=table, group=128, scales=random.real(random.groups(128), 1 / 448))


_SOME = torch.tensor([-1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1])
_BYTES = torch.arange(256, dtype=torch.uint8).view(torch.int8).float()

CODES: Mapping[str, Callable[[_Random], Codes]] = {
    "2 bits": lambda random: random.made(_levels(4, -2), 16),
    "3 bits in blocks": lambda random: random.blocks(random.made(_levels(8, -4), 16), 16, -64),
    "4 bits": lambda random: random.made(_levels(16, -8), 32),
    "4 bits of a row": lambda random: random.made(_levels(16, -8), random.inputs),
    "4 bits by a table": lambda random: random.made(_SOME, 64),
    "4 bits with offsets": _offsets,
    "4 bits with zeros and an order": _zeros,
    "4 bits in blocks with offsets": _two_levels,
    "5 bits": lambda random: random.made(_levels(32, -16), 32),
    "5 bits in groups of 16": lambda random: random.made(_levels(32, 0), 16),
    "5 bits by a table": lambda random: random.made(_levels(32, -16) ** 3, 32),
    "6 bits in blocks": lambda random: random.blocks(random.made(_levels(64, -32), 16), 16, -64),
    "7 bits": lambda random: random.made(_levels(128, -64), 64),
    "8 bits": lambda random: random.made(_BYTES, 32),
    "8 bits with zeros": _zeros_of_bytes,
    "8 bits by a table": lambda random: random.made(_BYTES.sign() * _BYTES**2, 128),
    "floats of 8 bits": _floats,
}
