from __future__ import annotations

from typing import Any, ClassVar

from maxserve.testing import QuantizationFormatChecks


class TestThreeLevels(QuantizationFormatChecks):
    quantization_format = "three-levels"
    config: ClassVar[dict[str, Any]] = {"quant_method": "three-levels"}
    names: ClassVar[dict[str, str]] = {"levels": "{}.levels", "scale": "{}.scale"}
    tolerance = 0.5

    def quantize(self, weight):
        scale = weight.abs().amax(1, keepdim=True)
        fours = ((weight / scale).round() + 1).byte().view(len(weight), -1, 4)
        return {"levels": fours[..., 0] | fours[..., 1] << 2 | fours[..., 2] << 4 | fours[..., 3] << 6, "scale": scale}
