"""4-bit floats in groups of 16 that share an 8-bit float, all of which share a float32: NVFP4.

A byte holds two neighbours, the first in the lower four bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.plugins.quantization.mxfp4 import TABLE
from maxserve.plugins.quantization.parts import FLOATS, damaged, listed, of_types, require

if TYPE_CHECKING:
    import torch

_GROUP = 16
_TYPES = {"values": {"U8"}, "scales": {"F8_E4M3"}, "factor": FLOATS}
LAYOUT = CodesLayout(levels=len(TABLE), group=_GROUP, added=1)  # scales of 16 bits have all those of 8
DIVIDED = CodesLayout(levels=len(TABLE), group=_GROUP, added=3)  # quotients, in float32


def nvfp4_shape(tensors: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the weight of `values` [outputs, inputs / 2], `scales` and the `factor` of all of these."""
    require(tensors, "values", "scales", "factor")
    values, scales, factor = (tuple(tensors[role].shape) for role in ("values", "scales", "factor"))
    of_types(tensors, _TYPES)
    *rows, half = values or (0,)
    if 0 in values or scales != (*rows, 2 * half // _GROUP) or 2 * half % _GROUP or not rows:
        raise damaged(f"{listed(tensors)} do not make up a weight in NVFP4")
    if factor[: len(rows) - 1] != tuple(rows[:-1]) or prod(factor[len(rows) - 1 :]) != 1:
        raise damaged(f"{listed(tensors)} do not make up a weight in NVFP4, whose factor is one number")
    return (*rows, 2 * half)


def neighbours(values: torch.Tensor) -> torch.Tensor:
    """The two codes in each byte, one after the other."""
    import torch

    return torch.stack((values & 15, values >> 4), dim=-1).flatten(-2)


def nvfp4_codes(tensors: Mapping[str, torch.Tensor], *, divided: bool) -> Codes:
    """The weight, whose scales are multiplied by the factor, or `divided` by it."""
    import torch

    values, scales, factor = tensors["values"], tensors["scales"].float(), tensors["factor"].float().reshape(1, 1)
    if not factor.isfinite().all() or not factor.any() or scales.isnan().any():
        raise ModelError("its scales, or the factor of all of them, are no numbers; fetch the checkpoint again")
    return Codes(
        codes=neighbours(values),
        table=torch.tensor(TABLE),
        group=_GROUP,
        scales=scales / factor if divided else scales,
        block=scales.shape[1],
        block_scales=None if divided else factor.expand(len(scales), 1),
    )
