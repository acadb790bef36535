"""Rows of numbers rounded to the blocks of GGUF tensors: the inverse of `blocks`.

Types of blocks of 32 are rounded as gguf-py's quants.py does, to the bit. Those of 256 have scales of their own for 16
or 32 values, which are searched: of some scales near the one that spans the values, that with the least weighted square
error is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.types import TensorType

_AT_ONCE = 1 << 18  # values, so that what is made of them stays in the caches of a processor
_TOGETHER = 128  # groups
_TRIED = 8  # scales of a group
_ALIKE = 1e-4  # below this share of their square sum, the codes of a group do not differ


def rounded_rows(rows: Tensor, type: TensorType) -> Tensor:
    """Rows [..., inputs] as bytes [..., bytes] of the type; ModelError where they hold what it cannot."""
    flat = rows.flatten(0, -2)
    size = max(1, _AT_ONCE // flat.shape[1])
    parts = [WRITERS[type.name](part.float()) for part in torch.split(flat, size)]
    return torch.cat(parts).view(*rows.shape[:-1], -1)


def _blocks(rows: Tensor, values: int) -> Tensor:
    """[rows * blocks, values]"""
    return rows.reshape(-1, values)


def _joined(rows: Tensor, *parts: Tensor) -> Tensor:
    """The bytes of each block one after another, by row."""
    return torch.cat(parts, dim=-1).reshape(len(rows), -1)


def _half(numbers: Tensor) -> Tensor:
    """[blocks, n] as bytes of float16; ModelError where one is too large, or no number."""
    narrow = numbers.to(torch.float16)
    if not narrow.isfinite().all():
        raise ModelError(
            "some of its values are no numbers, or too large to be rounded to 8 bits or fewer; fetch the checkpoint "
            "again, or use its weights as they are stored"
        )
    return narrow.view(torch.uint8)


def _inverse(scales: Tensor) -> Tensor:
    """1 / scale, and 0 for a scale of 0."""
    return torch.where(scales == 0, 0.0, 1 / scales)


def _nibbles(codes: Tensor) -> Tensor:
    """[..., 2 n] numbers of 4 bits: the first half in the lower ones of n bytes."""
    low, high = codes.chunk(2, dim=-1)
    return low | high << 4


def _fifths(codes: Tensor) -> Tensor:
    """The fifth bits of [blocks, 32] codes, in four bytes."""
    bits = (codes >> 4).reshape(len(codes), 4, 8) << torch.arange(8, dtype=torch.uint8)
    return bits.sum(-1, dtype=torch.uint8)


def _largest(blocks: Tensor) -> Tensor:
    """The value of the largest magnitude of each block, the first of equal ones."""
    return blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))


def _codes(numbers: Tensor, most: int) -> Tensor:
    """The whole parts of numbers, from 0 to `most`."""
    return numbers.nan_to_num(0.0).clamp(0, most).to(torch.uint8)


def _symmetric(rows: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Scales and codes of blocks whose largest value is the lowest code."""
    blocks = _blocks(rows, 32)
    scales = _largest(blocks) / -half
    return scales, _codes(blocks * _inverse(scales) + (half + 0.5), 2 * half - 1)


def _affine(rows: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scales, least values and codes of blocks."""
    blocks = _blocks(rows, 32)
    least = blocks.amin(-1, keepdim=True)
    scales = (blocks.amax(-1, keepdim=True) - least) / most
    return scales, least, _codes((blocks - least) * _inverse(scales) + 0.5, most)


def _q4_0(rows: Tensor) -> Tensor:
    scales, codes = _symmetric(rows, 8)
    return _joined(rows, _half(scales), _nibbles(codes))


def _q4_1(rows: Tensor) -> Tensor:
    scales, least, codes = _affine(rows, 15)
    return _joined(rows, _half(scales), _half(least), _nibbles(codes))


def _q5_0(rows: Tensor) -> Tensor:
    scales, codes = _symmetric(rows, 16)
    return _joined(rows, _half(scales), _fifths(codes), _nibbles(codes & 15))


def _q5_1(rows: Tensor) -> Tensor:
    scales, least, codes = _affine(rows, 31)
    return _joined(rows, _half(scales), _half(least), _fifths(codes), _nibbles(codes & 15))


def _q8_0(rows: Tensor) -> Tensor:
    blocks = _blocks(rows, 32)
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    numbers = blocks * _inverse(scales)
    whole = numbers.abs().floor()
    away = whole + (2 * (numbers.abs() - whole)).floor()  # halves away from zero
    signed = (numbers.sign() * away).nan_to_num(0.0).clamp(-127, 127).to(torch.int8)
    return _joined(rows, _half(scales), signed.view(torch.uint8))


def _across(groups: Tensor) -> Tensor:
    """[values, groups], filled up with groups of 0: torch sums up the last few columns in another order, so that codes
    would depend on how many rows there are."""
    made = groups.new_zeros(groups.shape[1], -(-len(groups) // _TOGETHER) * _TOGETHER)
    made[:, : len(groups)] = groups.t()
    return made


def _q4_k(rows: Tensor) -> Tensor:
    groups = _blocks(rows, 32)
    scales, minima = (each[: len(groups)].reshape(-1, 8) for each in _spanning(_across(groups), 15))
    scale, scale_codes = _sixth_bits(scales)
    minimum, minimum_codes = _sixth_bits(minima)
    wide = (scale.float() * scale_codes).reshape(-1, 1)
    lifted = groups + (minimum.float() * minimum_codes).reshape(-1, 1)
    codes = _codes((lifted * _inverse(wide)).round(), 15).reshape(-1, 4, 64)
    packed = _nibbles(codes).flatten(1)
    return _joined(rows, _half(scale), _half(minimum), _twelve_bytes(scale_codes, minimum_codes), packed)


def _spanning(groups: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Scales and minima, none below 0, with which scale * code - minimum is nearest to groups; codes go up to `most`.

    Near values of 0 an error counts less than near large ones. `groups` are [values, groups], as sums are quicker so.
    """
    weights = groups.abs() + groups.square().mean(0).sqrt()
    least = groups.amin(0).clamp(max=0.0)
    span, lifted, weighted = groups.amax(0) - least, groups - least, weights * groups
    total, sums = weights.sum(0), weighted.sum(0)
    best, best_scale, best_minimum = torch.full_like(span, torch.inf), span, -least
    for step in (None, *torch.linspace(-1.0, 1.0, _TRIED).tolist()):
        codes = (lifted * ((most + (step or 0.0)) * _inverse(span))).round_().clamp_(0, most)
        scale, minimum = (span / most, -least) if step is None else _fitted(weights, weighted, codes, total, sums)
        error = (codes * scale).sub_(minimum).sub_(groups).square_().mul_(weights).sum(0)
        better = error < best
        best = torch.where(better, error, best)
        best_scale = torch.where(better, scale, best_scale)
        best_minimum = torch.where(better, minimum, best_minimum)
    return best_scale, best_minimum


def _fitted(weights: Tensor, weighted: Tensor, codes: Tensor, total: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the minimum of the least weighted square error, given codes."""
    products = weights * codes
    first, cross = products.sum(0), (weighted * codes).sum(0)
    second = products.mul_(codes).sum(0)
    varied = total * second - first.square()
    inverse = torch.where(varied > _ALIKE * total * second, 1 / varied, 0.0)
    scale, minimum = (total * cross - sums * first) * inverse, (first * cross - second * sums) * inverse
    alone = (cross * _inverse(second)).clamp(min=0.0)
    return torch.where(minimum > 0, scale, alone).clamp(min=0.0), minimum.clamp(min=0.0)


def _sixth_bits(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """What 6-bit codes of numbers [blocks, 8], none below 0, are multiplied by, [blocks, 1] float16, and the codes."""
    scale = (numbers.amax(-1, keepdim=True) / 63).to(torch.float16)
    return scale, _codes((numbers * _inverse(scale.float())).round(), 63)


def _twelve_bytes(scales: Tensor, minima: Tensor) -> Tensor:
    """Eight scales and eight minima of 6 bits."""
    low, high = scales.chunk(2, dim=-1)
    low_minima, high_minima = minima.chunk(2, dim=-1)
    return torch.cat(
        (low | high >> 4 << 6, low_minima | high_minima >> 4 << 6, high & 15 | (high_minima & 15) << 4), dim=-1
    )


def _q6_k(rows: Tensor) -> Tensor:
    groups = _blocks(rows, 16)
    scales = _centred(_across(groups), 32)[: len(groups)].reshape(-1, 16)
    block = (_largest(scales) / -128).to(torch.float16)
    codes = (scales * _inverse(block.float())).round().nan_to_num(0.0).clamp(-128, 127).to(torch.int8)
    wide = (block.float() * codes).reshape(-1, 1)
    values = _codes((groups * _inverse(wide)).round() + 32, 63).reshape(-1, 2, 4, 32)
    low = (values[:, :, :2] & 15 | (values[:, :, 2:] & 15) << 4).flatten(1)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    high = (values >> 4 << shifts).sum(2, dtype=torch.uint8).flatten(1)
    return _joined(rows, low, high, codes.view(torch.uint8), _half(block))


def _centred(groups: Tensor, half: int) -> Tensor:
    """The scales with which codes from -half to half - 1 come nearest to groups, large values counting more.

    `groups` are [values, groups].
    """
    largest = groups.gather(0, groups.abs().argmax(0, keepdim=True))[0]
    weights, weighted = groups.square(), groups.pow(3)
    best, best_scale = torch.zeros_like(largest), largest / -half
    for step in torch.linspace(-0.9, 0.9, _TRIED).tolist():
        codes = (groups * (-(half + step) * _inverse(largest))).round_().clamp_(-half, half - 1)
        cross = (weighted * codes).sum(0)
        scale = cross * _inverse(codes.square_().mul_(weights).sum(0))
        better = scale * cross > best
        best, best_scale = torch.where(better, scale * cross, best), torch.where(better, scale, best_scale)
    return best_scale


WRITERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
