"""Mistral 3: a Pixtral tower whose patches are merged in squares, a Mistral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures import llama, mistral
from maxserve.architectures.layers.vision import VisionLanguageModel
from maxserve.architectures.layers.vision_config import VisionConfig, vision_config


class Model(VisionLanguageModel, mistral.Model):
    Whole = "Mistral3Model"


def config(raw: Mapping[str, Any]) -> VisionConfig:
    return vision_config(raw, {"mistral": mistral.config, "llama": llama.config})
