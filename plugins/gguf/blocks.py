"""Blocks of GGUF tensors as codes: ggml/src/ggml-common.h and ggml-quants.c of llama.cpp have the layouts.

Every function takes rows [rows, bytes] uint8. Products of scales are made in the order of the reference, so that the
values of the codes are its values, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes

_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FLOATS = torch.tensor([*_E2M1, *(-value for value in _E2M1)])


def _blocks(rows: Tensor, size: int) -> Tensor:
    """[rows, blocks, size]"""
    return rows.reshape(len(rows), -1, size)


def _split(bytes: Tensor, *shape: int) -> Tensor:
    """The last axis as several."""
    return bytes.reshape(*bytes.shape[:-1], *shape)


def _halfs(blocks: Tensor, first: int, count: int = 1) -> Tensor:
    """float16 numbers of each block from byte `first` on, [rows, blocks * count]."""
    part = blocks[..., first : first + 2 * count].contiguous()
    return part.view(torch.float16).flatten(1)


def _numbers(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)


def _halves(bytes: Tensor) -> Tensor:
    """Of [..., n] bytes the lower nibbles, then the upper ones."""
    return torch.cat((bytes & 15, bytes >> 4), dim=-1)


def _bits(words: Tensor) -> Tensor:
    """The bits of [..., n] bytes, the lowest first, [..., 8 n]."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return (words[..., None] >> shifts & 1).flatten(-2)


def _q4(rows: Tensor, size: int, table: Tensor) -> Codes:
    blocks = _blocks(rows, size)
    return Codes(codes=_halves(blocks[..., -16:]).flatten(1), table=table, group=32, scales=_halfs(blocks, 0))


def _q4_0(rows: Tensor) -> Codes:
    return _q4(rows, 18, _numbers(-8, 16))


def _iq4_nl(rows: Tensor) -> Codes:
    return _q4(rows, 18, torch.tensor(_NONLINEAR, dtype=torch.float32))


def _q4_1(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 20)
    return Codes(
        codes=_halves(blocks[..., 4:]).flatten(1),
        table=_numbers(0, 16),
        group=32,
        scales=_halfs(blocks, 0),
        offsets=-_halfs(blocks, 2),
    )


def _five(blocks: Tensor, high: int) -> Tensor:
    """Codes of 5 bits: the fifth ones lie in four bytes from `high` on, nibbles behind them."""
    codes = _halves(blocks[..., high + 4 :]) | _bits(blocks[..., high : high + 4]) << 4
    return codes.flatten(1)


def _q5_0(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 22)
    return Codes(codes=_five(blocks, 2), table=_numbers(-16, 32), group=32, scales=_halfs(blocks, 0))


def _q5_1(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 24)
    return Codes(
        codes=_five(blocks, 4),
        table=_numbers(0, 32),
        group=32,
        scales=_halfs(blocks, 0),
        offsets=-_halfs(blocks, 2),
    )


def _q8_0(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 34)
    table = torch.arange(256, dtype=torch.uint8).view(torch.int8).float()
    return Codes(codes=blocks[..., 2:].flatten(1), table=table, group=32, scales=_halfs(blocks, 0))


def _two_bits(bytes: Tensor) -> Tensor:
    """Of [..., 64] bytes the 256 codes of 2 bits: by 32 bytes, the lowest bits of all, then the next ones."""
    halves = _split(bytes, 2, 1, 32)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    return (halves >> shifts & 3).flatten(-3)


def _q2_k(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 84)
    scales = blocks[..., :16]
    return Codes(
        codes=_two_bits(blocks[..., 16:80]).flatten(1),
        table=_numbers(0, 4),
        group=16,
        scales=(scales & 15).flatten(1),
        offsets=(scales >> 4).flatten(1),
        block=16,
        block_scales=_halfs(blocks, 80),
        block_offsets=_halfs(blocks, 82),
    )


def _q3_k(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 110)
    masks, packed = blocks[..., :32], blocks[..., 96:108]
    high = (masks[..., None, :] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1).flatten(-2)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    upper = (packed[..., None, 8:] >> shifts & 3).flatten(-2)
    scales = (_halves(packed[..., :8]) | upper << 4).to(torch.int8) - 32
    return Codes(
        codes=(_two_bits(blocks[..., 32:96]) | high << 2).flatten(1),
        table=_numbers(-4, 8),
        group=16,
        scales=scales.flatten(1),
        block=16,
        block_scales=_halfs(blocks, 108),
    )


def _sixes(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of 6 bits in twelve bytes."""
    low, mid, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat((low & 63, high & 15 | low >> 6 << 4), dim=-1)
    minima = torch.cat((mid & 63, high >> 4 | mid >> 6 << 4), dim=-1)
    return scales.flatten(1), minima.flatten(1)


def _pairs_of_32(bytes: Tensor) -> Tensor:
    """Of [..., 128] bytes 256 nibbles: by 32 bytes, all lower ones, then all upper ones."""
    return _halves(_split(bytes, 4, 32)).flatten(-2)


def _q4_k(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 144)
    return _with_minima(blocks, _pairs_of_32(blocks[..., 16:]), 16)


def _q5_k(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 176)
    high = blocks[..., None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    return _with_minima(blocks, _pairs_of_32(blocks[..., 48:]) | high.flatten(-2) << 4, 32)


def _with_minima(blocks: Tensor, codes: Tensor, levels: int) -> Codes:
    scales, minima = _sixes(blocks[..., 4:16])
    return Codes(
        codes=codes.flatten(1),
        table=_numbers(0, levels),
        group=32,
        scales=scales,
        offsets=minima,
        block=8,
        block_scales=_halfs(blocks, 0),
        block_offsets=_halfs(blocks, 2),
    )


def _q6_k(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 210)
    low = _split(blocks[..., :128], 2, 64)
    high = _split(blocks[..., None, 128:192], 2, 32).transpose(-2, -3)  # [..., half, 1, 32]
    upper = high >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    codes = _halves(low) | upper.flatten(-2) << 4
    return Codes(
        codes=codes.flatten(1),
        table=_numbers(-32, 64),
        group=16,
        scales=blocks[..., 192:208].contiguous().view(torch.int8).flatten(1),
        block=16,
        block_scales=_halfs(blocks, 208),
    )


def _iq4_xs(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 136)
    low = torch.stack((blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4), dim=-1).flatten(-2)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
    high = (blocks[..., 2:4, None] >> shifts & 3).flatten(-2)
    codes = _halves(_split(blocks[..., 8:], 8, 16))
    return Codes(
        codes=codes.flatten(1),
        table=torch.tensor(_NONLINEAR, dtype=torch.float32),
        group=32,
        scales=((low | high << 4).to(torch.int8) - 32).flatten(1),
        block=8,
        block_scales=_halfs(blocks, 0),
    )


def _mxfp4(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 17)
    exponents = blocks[..., 0].int() - 127
    return Codes(
        codes=_halves(blocks[..., 1:]).flatten(1),
        table=_FLOATS,
        group=32,
        scales=torch.ldexp(torch.ones(exponents.shape), exponents),
    )


def _nvfp4(rows: Tensor) -> Codes:
    blocks = _blocks(rows, 36)
    scales = (blocks[..., :4] & 127).view(torch.float8_e4m3fn).float().nan_to_num(0.0)  # their sign has no meaning
    return Codes(
        codes=_halves(_split(blocks[..., 4:], 4, 8)).flatten(1),
        table=_FLOATS,
        group=16,
        scales=scales.flatten(1),
    )


READERS: dict[str, Callable[[Tensor], Codes]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
}
