"""EXAONE 3 against transformers' Llama, whose weights are saved under the names that its checkpoints have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig

from maxserve.architectures import exaone
from maxserve.testing.architecture import ArchitectureCases, ArchitectureChecks, QuirkChecks

NAMES = (
    (r"^model\.embed_tokens\.", "transformer.wte."),
    (r"^model\.norm\.", "transformer.ln_f."),
    (r"^model\.layers\.", "transformer.h."),
    (r"\.self_attn\.o_proj\.", ".attn.attention.out_proj."),
    (r"\.self_attn\.", ".attn.attention."),
    (r"\.input_layernorm\.", ".ln_1."),
    (r"\.post_attention_layernorm\.", ".ln_2."),
    (r"\.mlp\.gate_proj\.", ".mlp.c_fc_0."),
    (r"\.mlp\.up_proj\.", ".mlp.c_fc_1."),
    (r"\.mlp\.down_proj\.", ".mlp.c_proj."),
)
# What config.json of such a checkpoint calls the sizes of a Llama.
KEYS: Mapping[str, str] = {
    "num_hidden_layers": "num_layers",
    "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}
SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
)


def tiny(**changes: Any) -> LlamaConfig:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }
    return LlamaConfig(**{**sizes, **changes})


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e6,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


class Renamed(ArchitectureCases):
    architecture = "ExaoneForCausalLM"

    @classmethod
    def write(cls, folder: Path, hf_config: Any, model: nn.Module) -> None:
        tensors = {}
        for name, parameter in model.named_parameters():
            for pattern, spelling in NAMES:
                name = re.sub(pattern, spelling, name)
            tensors[name] = parameter.detach()
        save_file(tensors, folder / "model.safetensors")
        rope = dict(hf_config.rope_parameters)
        content = {key: getattr(hf_config, key) for key in SAME}
        content |= {theirs: getattr(hf_config, ours) for ours, theirs in KEYS.items()}
        content |= {"model_type": "exaone", "eos_token_id": 2, "rope_theta": rope.pop("rope_theta")}
        if rope["rope_type"] != "default":
            content["rope_scaling"] = rope
        (folder / "config.json").write_text(json.dumps(content))


class TestExaone(Renamed, ArchitectureChecks):
    hf_configs: ClassVar = {"3.0": tiny()}


class TestQuirks(Renamed, QuirkChecks):
    hf_configs: ClassVar = {
        "3.5, tied": tiny(tie_word_embeddings=True, rope_parameters=LLAMA3),
        "a key head each, wide heads": tiny(num_key_value_heads=6, head_dim=20, rms_norm_eps=1e-3),
    }


def test_defaults_are_those_of_the_family() -> None:
    config = exaone.config({"num_layers": 5})
    assert (config.layers, config.ffn_dim, config.kv_heads) == (5, 14336, 8)
    assert (config.rope.theta, config.eps, config.activation) == (500000.0, 1e-5, "silu")
