"""Checkpoints of AutoRound (arXiv 2309.05516), which lie as those of GPTQ or of AWQ do.

In the layout of GPTQ releases differ in whether zeros are stored less one. Weights that are symmetric have all the same
zero, whatever is stored; others are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.codes import Codes
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.awq import Awq
from maxserve.plugins.quantization.gptq import Gptq

if TYPE_CHECKING:
    import torch

_NAMES = ("auto-round", "intel/auto-round")
_GPTQ, _MODEL, _AWQ = "auto_round:auto_gptq", "auto_round:gptqmodel", "auto_round:auto_awq"


def is_auto_round(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of such a checkpoint."""
    settings = config.get("quantization_config")
    return isinstance(settings, Mapping) and settings.get("quant_method") in _NAMES


def auto_round(context: QuantizationContext) -> Gptq | Awq:
    """The format by "packing_format"; ModelError for one that is not read."""
    settings = context.model_config["quantization_config"]
    packing, kind = settings.get("packing_format", _GPTQ), settings.get("data_type", "int")
    own = {key: settings[key] for key in ("bits", "group_size") if key in settings}
    given = QuantizationContext(model_config={**context.model_config, "quantization_config": own})
    if kind != "int" or packing not in (_GPTQ, _MODEL, _AWQ):
        raise ModelError(
            f"'packing_format' of AutoRound is {packing!r:.60}, of {kind!r:.60}; what is read is "
            f"{_GPTQ}, {_MODEL} and {_AWQ}, of int"
        )
    if packing == _AWQ:
        return Awq(given)
    if settings.get("sym", True) is not True:
        raise ModelError(
            f"weights in {packing} have zeros, and releases of AutoRound differ in how these are stored; "
            f"use a symmetric checkpoint, or one in {_AWQ}"
        )
    return SymmetricGptq(given, varied=bool(settings.get("extra_config")))


class SymmetricGptq(Gptq):
    """A BuiltQuantizationFormat whose zero is half of the levels."""

    encoding = "int4"

    def __init__(self, context: QuantizationContext, *, varied: bool) -> None:
        super().__init__(context)
        self.encoding = f"int{self._bits}" if self._bits in (4, 8) else "gptq"
        self._varied = varied

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        import torch

        made = super().codes(tensors)
        levels = len(made.table)
        return replace(made, table=torch.arange(float(levels)) - levels // 2, zeros=None)
