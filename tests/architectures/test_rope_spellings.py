"""config.json files as people and older releases of transformers write them give transformers' logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from maxserve.testing.architecture import ArchitectureChecks, randomised, run_step

SIZES: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5], "long_factor": [1.0, 1.5, 2, 3, 4, 6, 8, 9]}
WAVES = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": WAVES,
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {"factor": 4.0, "original_max_position_embeddings": 16, **FACTORS},
    "proportional": {"factor": 2.0},
}
BESIDE: dict[str, dict[str, Any]] = {
    "no rope at all": {},
    "no scaling": {"rope_theta": 5e5, "rope_scaling": None},
    "linear, without theta": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "longrope as in Phi 3": {
        "rope_theta": 7e4,
        "original_max_position_embeddings": 16,
        "rope_scaling": {"type": "longrope", **FACTORS},
    },
    "longrope, new, original length beside it": {
        "original_max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 7e4, **FACTORS},
    },
    "longrope, no factor": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 7e4,
            "original_max_position_embeddings": 16,
            **FACTORS,
        },
    },
    "longrope, attention factor": {
        "rope_theta": 7e4,
        "original_max_position_embeddings": 16,
        "rope_scaling": {"rope_type": "longrope", "attention_factor": 1.3, "factor": 2.0, **FACTORS},
    },
    "longrope, original length in both places": {
        "original_max_position_embeddings": 16,
        "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 24, **FACTORS},
    },
    "longrope, no original length": {"rope_scaling": {"type": "longrope", **FACTORS}},
}


class Llama(ArchitectureChecks):
    architecture = "LlamaForCausalLM"


def assert_equal(folder: Path, written: dict[str, Any], *, saved: bool) -> None:
    """The logits of prompts about the original length are transformers', for a config.json as it is written.

    `saved`: transformers has read it and written its own.
    """
    (folder / "config.json").write_text(json.dumps({**SIZES, **written}))
    config = LlamaConfig.from_pretrained(folder, attn_implementation="eager")
    reference = randomised(LlamaForCausalLM(config))
    reference.save_pretrained(folder)  # type: ignore[operator]
    if not saved:
        (folder / "config.json").write_text(json.dumps({**SIZES, **written}))
    case = Llama.case_of(folder, reference)
    model = case.load()
    for length in (15, 16, 17, 64):
        prompt = case.prompt(1, length)
        torch.testing.assert_close(
            run_step(model, case.cache(), [(0, prompt)]), case.expected(prompt), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("spelling", ["type", "rope_type", "new", "saved"])
@pytest.mark.parametrize("kind", SCALINGS)
def test_every_kind_in_every_spelling(tmp_path: Path, kind: str, spelling: str) -> None:
    if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        pytest.skip(f"this transformers has no {kind}")
    fields = SCALINGS[kind]
    new = {"rope_parameters": {"rope_type": kind, "rope_theta": 7e4, **fields}}
    old = {"rope_theta": 7e4, "rope_scaling": {spelling: kind, **fields}}
    assert_equal(tmp_path, new if spelling in ("new", "saved") else old, saved=spelling == "saved")


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_what_may_stand_beside_it_or_be_left_out(tmp_path: Path, name: str, saved: bool) -> None:
    assert_equal(tmp_path, BESIDE[name], saved=saved)
