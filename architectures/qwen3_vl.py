"""Qwen 3 VL: a Qwen 2.5 VL over a Qwen 3, dense or of experts, whose first layers each get features of a deeper look.

Such features are those of DeepStack (arXiv:2406.04334).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maxserve.architectures import qwen3, qwen3_moe
from maxserve.architectures.layers.mrope import MultimodalRotary, interleaved
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config
from maxserve.architectures.qwen2_5_vl import Images, sections
from maxserve.interfaces.inputs import ImageSpan
from maxserve.interfaces.step_context import StepContext

__all__ = ["Images", "MixtureModel", "Model", "config", "mixture_config"]


class DeepStack(VisionLanguageModel):
    """Several levels of features: those of the first layer, and what is added behind some layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.rotary = MultimodalRotary(config.text, interleaved(sections(config)))

    def features(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What goes into the first layer, and beside it what is added behind each of the first layers."""
        found = self.tower.get_image_features(**tensors, return_dict=True)
        levels = (found.pooler_output, *found.deepstack_features)  # by image, or in older releases all together
        return torch.cat([x if isinstance(x, Tensor) else torch.cat(tuple(x)) for x in levels], dim=-1)

    def forward(self, step: StepContext) -> Tensor:
        if not step.inputs.images:
            return super().forward(step)
        x, deeper = self.embed(step), [self._deeper(seen) for seen in step.inputs.images]
        for index, (block, rotary) in enumerate(zip(self.model.layers, self.rotary(step, x.dtype), strict=True)):
            x = block(x, rotary)
            for rows, levels in deeper:
                if index < len(levels):
                    x = x.index_add(0, rows, levels[index])
            step.keep(index, x)
        out: Tensor = self.model.norm(x)
        return out

    def _deeper(self, seen: ImageSpan) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = self.image_features(seen).narrow(0, seen.first, len(seen.rows))
        levels = torch.split(features, self.config.dim, dim=-1)[1:]
        return seen.rows, levels


class Model(DeepStack, qwen3.Model):
    Whole = "Qwen3VLModel"


class MixtureModel(DeepStack, qwen3_moe.Model):
    Whole = "Qwen3VLMoeModel"


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"qwen3_vl_text": qwen3.config})


def mixture_config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"qwen3_vl_moe_text": _mixture})


def _mixture(raw: Mapping[str, Any]) -> qwen3_moe.QwenMixtureConfig:
    """The weights of a token's experts sum to 1, whatever config.json says."""
    return qwen3_moe.config({**raw, "norm_topk_prob": True})
