"""Triton kernels over codes (codes.py says how these lie in memory).

Each program has the weights of OUTPUTS rows, 32 inputs (half a unit) at a time: their codes are read as they are,
become numbers in float32 in the order of operations of `Codes.values`, and are multiplied in the type of the rows, with
sums in float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _numbers(codes, table, first, real, FLOAT8: tl.constexpr):
    """What codes mean, in float32."""
    if table is not None:
        return tl.load(table + codes, mask=real, other=0.0)
    if FLOAT8:  # its bits are those of a float16 with 7 bits of fraction less, and another bias
        bits = ((codes & 0x80) << 8) | ((codes & 0x7F) << 7)
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return codes.to(tl.float32) + first


@triton.jit
def _of_groups(numbers, blocks, at, at_block, real):
    """Numbers of groups, times those of their blocks where there are such."""
    own = tl.load(numbers + at, mask=real, other=0).to(tl.float32)
    if blocks is not None:
        own = tl.load(blocks + at_block, mask=real, other=0).to(tl.float32) * own
    return own


@triton.jit
def _half(
    low, high, table, first, scales, offsets, zeros, block_scales, block_offsets,
    row, real, unit, half, inputs, units, groups, blocks,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, FLOAT8: tl.constexpr,
):  # fmt: skip
    """The weights [rows, 32] of one half of a unit, in float32; inputs that there are not have weight 0."""
    lane = tl.arange(0, 32)[None, :]
    column = unit * 64 + half * 32 + lane
    real = real[:, None]
    if BITS == 8:
        codes = tl.load(low + row[:, None] * units * 64 + column, mask=real, other=0).to(tl.int32)
    else:
        pairs = tl.load(low + row[:, None] * units * 32 + unit * 32 + lane, mask=real, other=0).to(tl.int32)
        codes = (pairs >> (4 * half)) & 15
    if BITS == 5:
        bits = tl.load(high + row[:, None] * units * 8 + unit * 8 + lane % 8, mask=real, other=0).to(tl.int32)
        codes |= ((bits >> (4 * half + lane // 8)) & 1) << 4
    if BITS == 6:
        bits = tl.load(high + row[:, None] * units * 16 + unit * 16 + lane % 16, mask=real, other=0).to(tl.int32)
        codes |= ((bits >> (4 * half + 2 * (lane // 16))) & 3) << 4
    if GROUP == 0:  # the inputs of a row share one group
        group = row[:, None] * 0
    elif GROUP % 32 == 0:
        group = row[:, None] * 0 + (unit * 64 + half * 32) // GROUP
    else:
        group = column // GROUP
    real = real & (group < groups)
    at, at_block = row[:, None] * groups + group, row[:, None] * blocks + group // BLOCK
    values = _numbers(codes, table, first, real, FLOAT8)
    if zeros is not None:
        values -= tl.load(zeros + at, mask=real, other=0).to(tl.float32)
    values *= _of_groups(scales, block_scales, at, at_block, real)
    if offsets is not None:
        values -= _of_groups(offsets, block_offsets, at, at_block, real)
    return tl.where(real & (column < inputs), values, 0.0)


@triton.jit
def product(
    x, out, bias, owners, starts, ends,
    low, high, table, first, scales, offsets, zeros, block_scales, block_offsets,
    rows, outputs, inputs, units, groups, blocks, x_stride, out_stride, part_stride, part_units, bias_stride, experts,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, FLOAT8: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out[row, output] = the sum over a part of the units of x[row, input] * weight[output, input], plus a bias.

    Programs are (a block of outputs, a part of the inputs, a tile of rows). Of a mixture, tile t has rows from
    `starts[t]` on of expert `owners[t]`, whose rows end before `ends[owners[t]]`; a tile whose owner is no expert has
    none. Without owners, tiles follow each other. WIDE is for Triton's interpreter, which has no product of bfloat16.
    """
    tile = tl.program_id(2)
    expert, start, end = 0, tile * ROWS, rows
    if owners is not None:
        expert = tl.load(owners + tile)
        if expert >= experts:
            return
        start, end = tl.load(starts + tile), tl.load(ends + expert)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    real = output < outputs
    weight = tl.cast(expert, tl.int64) * outputs + output
    row = tl.cast(start, tl.int64) + tl.arange(0, ROWS)
    there = row < end
    lane = tl.arange(0, 32)
    sums = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    begin = tl.program_id(1) * part_units
    for unit in range(begin, min(begin + part_units, units)):
        for half in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]
            values = _half(
                low, high, table, first, scales, offsets, zeros, block_scales, block_offsets,
                weight, real, unit, half, inputs, units, groups, blocks, GROUP, BLOCK, BITS, FLOAT8,
            )  # fmt: skip
            column = unit * 64 + half * 32 + lane
            given = tl.load(
                x + row[None, :] * x_stride + column[:, None],
                mask=there[None, :] & (column < inputs)[:, None],
                other=0.0,
            )
            values = values.to(given.dtype)
            if WIDE:
                values, given = values.to(tl.float32), given.to(tl.float32)
            sums = tl.dot(values, given, sums, input_precision="ieee")
    if bias is not None:
        sums += tl.load(bias + expert * bias_stride + output, mask=real, other=0).to(tl.float32)[:, None]
    at = out + tl.program_id(1) * part_stride + row[None, :] * out_stride + output[:, None]
    tl.store(at, sums.to(out.dtype.element_ty), mask=there[None, :] & real[:, None])


@triton.jit
def values(
    out, numbers,
    low, high, table, first, scales, offsets, zeros, block_scales, block_offsets,
    rows, inputs, units, groups, blocks, out_stride,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, FLOAT8: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """out[row] = the weights of the rows with these numbers, or of all. Programs are (a block of rows, a unit)."""
    row = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    real, unit = row < rows, tl.program_id(1)
    weight = row.to(tl.int64)
    if numbers is not None:
        weight = tl.load(numbers + row, mask=real, other=0)
    for half in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]
        meant = _half(
            low, high, table, first, scales, offsets, zeros, block_scales, block_offsets,
            weight, real, unit, half, inputs, units, groups, blocks, GROUP, BLOCK, BITS, FLOAT8,
        )  # fmt: skip
        column = unit * 64 + half * 32 + tl.arange(0, 32)
        at = out + row.to(tl.int64)[:, None] * out_stride + column[None, :]
        tl.store(at, meant.to(out.dtype.element_ty), mask=real[:, None] & (column < inputs)[None, :])


@triton.jit
def rows_of_float8(x, out, scales, inputs, x_stride, LARGEST: tl.constexpr, INPUTS: tl.constexpr):
    """out[row] = x[row] / scales[row] in float8_e4m3fn, where the scale makes the largest number of a row LARGEST."""
    row = tl.program_id(0).to(tl.int64)
    most = 0.0
    for first in range(0, inputs, INPUTS):
        column = first + tl.arange(0, INPUTS)
        given = tl.load(x + row * x_stride + column, mask=column < inputs, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.max(tl.abs(given), 0))
    scale = tl.where(most > 0, most / LARGEST, 1.0)
    tl.store(scales + row, scale)
    for first in range(0, inputs, INPUTS):
        column = first + tl.arange(0, INPUTS)
        given = tl.load(x + row * x_stride + column, mask=column < inputs, other=0.0).to(tl.float32) / scale
        tl.store(out + row * inputs + column, given.to(out.dtype.element_ty), mask=column < inputs)
