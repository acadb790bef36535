"""Weights of float8_e4m3fn with a scale a row, multiplied by the units of a device for such numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from maxserve.interfaces.codes import Codes
from maxserve.plugins.cuda.codes import Form

__all__ = ["LARGEST", "Float8Rows", "is_by_rows", "reason_against"]

LARGEST = 448.0  # that float8_e4m3fn has
MULTIPLE = 16  # of rows and of inputs, which the products want
ONE = 0x38  # the bits of 1
CAPABILITY = (8, 9)  # of the first devices with such units


RoundsRows = Callable[[Tensor], tuple[Tensor, Tensor]]  # rows in float8_e4m3fn, and the scale [rows, 1] of each


def reason_against(round_rows: RoundsRows, device: torch.device) -> str | None:
    """Why float8_e4m3fn is not multiplied as such on the device, which is tried; None where it is.

    Torch's own arithmetic stands for the units on a CPU.
    """
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < CAPABILITY:
        return f"devices of compute capability {capability[0]}.{capability[1]} have no units for float8_e4m3fn"
    ones = torch.full((MULTIPLE, MULTIPLE), ONE, dtype=torch.uint8)
    table = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    codes = Codes(codes=ones, table=table, group=MULTIPLE, scales=torch.ones(MULTIPLE, 1))
    out = torch.empty(1, MULTIPLE, dtype=torch.bfloat16, device=device)
    try:
        Float8Rows(codes, round_rows, device).multiply(torch.ones_like(out), None, out)
        found = float(out[0, 0])
    except Exception as error:
        return f"float8_e4m3fn cannot be multiplied here: {type(error).__name__}: {error!s:.300}"
    return None if found == MULTIPLE else f"products of float8_e4m3fn are wrong here: {found} for {MULTIPLE}"


def is_by_rows(codes: Codes, form: Form) -> bool:
    """Whether codes that are bits of float8_e4m3fn have a scale for each row, and a size that products want."""
    plain = codes.offsets is None and codes.zeros is None and codes.block_scales is None and codes.order is None
    whole = not any(size % MULTIPLE for size in codes.codes.shape)
    return plain and whole and form.group == 0


class Float8Rows:
    """Some rows of a weight, which multiply rows that are rounded to float8_e4m3fn, with a scale for each, too."""

    def __init__(self, codes: Codes, round_rows: RoundsRows, device: torch.device) -> None:
        self._values = codes.codes.to(device, copy=True).view(torch.float8_e4m3fn)
        self._scales = codes.scales.float().to(device, copy=True).view(1, -1)
        self._round_rows = round_rows
        self.rows = len(self._values)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._scales.nbytes

    def multiply(self, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        rounded, scales = self._round_rows(x)
        by_row = F.ScalingType.RowWise
        product = F.scaled_mm(
            rounded, self._values.T, scales, by_row, self._scales, by_row, output_dtype=torch.bfloat16
        )
        out.copy_(product if bias is None else product + bias)

    def embedding(self, ids: Tensor) -> Tensor:
        return self._values.view(torch.uint8)[ids].view(torch.float8_e4m3fn).float() * self._scales.view(-1)[ids, None]
