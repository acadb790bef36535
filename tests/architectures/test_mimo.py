"""MiMo, which transformers has no class for, against its Qwen 2, whose layers it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2Config

from maxserve.testing.architecture import ArchitectureCases, ArchitectureChecks


class OfMiMo(ArchitectureCases):
    architecture = "MiMoForCausalLM"

    @classmethod
    def write(cls, folder: Path, hf_config: Any, model: nn.Module) -> None:
        """With a weight of a layer that drafts, which the model has no part for."""
        tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
        tensors["model.mtp_layers.0.input_proj.weight"] = torch.ones(48, 96)
        save_file(tensors, folder / "model.safetensors")
        content = hf_config.to_dict() | {"architectures": [cls.architecture], "model_type": "mimo"}
        (folder / "config.json").write_text(json.dumps(content | {"num_nextn_predict_layers": 1}))


class TestMiMo(OfMiMo, ArchitectureChecks):
    hf_configs: ClassVar = {
        "7B": Qwen2Config(
            vocab_size=83,
            hidden_size=48,
            intermediate_size=72,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=64,
            rope_parameters={"rope_type": "default", "rope_theta": 640000.0},
            tie_word_embeddings=False,
        )
    }
