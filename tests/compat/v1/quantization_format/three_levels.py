"""Weights that are -1, 0 or 1 times a number a row, four of them in a byte."""

from __future__ import annotations

from maxserve import QuantizationFormat, hookimpl
from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError


class ThreeLevels:
    """A weight [outputs, inputs] is `levels` uint8 [outputs, inputs / 4] and `scale` float32 [outputs, 1]."""

    dtype = "BF16"
    types = frozenset({"U8"})

    def __init__(self, context):
        pass  # its config has nothing to say

    def part(self, tensor, dtype):
        weight, _, role = tensor.rpartition(".")
        return (weight, role) if (role, dtype) in (("levels", "U8"), ("scale", "F32")) else None

    def shape(self, tensors):
        shapes = {role: tensor.shape for role, tensor in tensors.items()}
        rows, bytes = (*shapes.get("levels", ()), 0, 0)[:2]
        if not rows * bytes or shapes != {"levels": (rows, bytes), "scale": (rows, 1)}:
            raise ModelError(f"levels and a scale for each row are expected, not {shapes}")
        return rows, 4 * bytes

    def layout(self, tensors):
        return CodesLayout(levels=3, group=4 * tensors["levels"].shape[1])

    def codes(self, tensors):
        import torch

        packed = tensors["levels"]
        codes = (packed[..., None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8) & 3).flatten(1)
        if codes.max() > 2:
            raise ModelError("its levels are not -1, 0 and 1")
        table = torch.tensor([-1.0, 0.0, 1.0])
        return Codes(codes=codes, table=table, group=codes.shape[1], scales=tensors["scale"])


@hookimpl
def maxserve_quantization_formats():
    yield QuantizationFormat(name="three-levels", build=ThreeLevels, summary="-1, 0 and 1 times a number a row")
