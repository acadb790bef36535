"""Frequencies against transformers' own, for each scaling, at lengths that tiny models do not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from maxserve.architectures.layers.config import from_transformers
from maxserve.architectures.layers.rope import frequencies
from maxserve.architectures.layers.rotary import Rotary
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config

SHORT = torch.linspace(1.0, 1.5, 32).tolist()
LONG = torch.linspace(1.0, 60.0, 32).tolist()
BASE = {"vocab_size": 10, "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 8}

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    "yarn untruncated": {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
    },
    "yarn mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 1.3,
    },
    "yarn attention factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 0.5,
    },
    "yarn that ends before it starts": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4},
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
}


def assert_equal(raw: LlamaConfig, seq_len: int | None = None) -> None:
    expected, scale = ROPE_INIT_FUNCTIONS[raw.rope_parameters["rope_type"]](raw, None, seq_len=seq_len)
    config = from_transformers(raw.to_dict())
    ours, our_scale = frequencies(config.rope, config.head_dim, seq_len or raw.max_position_embeddings)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    assert our_scale == pytest.approx(scale, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROPES)
def test_scalings(name: str) -> None:
    rope = {"rope_theta": 500000.0, **ROPES[name]}
    if rope["rope_type"] not in ROPE_INIT_FUNCTIONS:
        pytest.skip(f"this transformers has no {rope['rope_type']}")
    assert_equal(LlamaConfig(**BASE, max_position_embeddings=16384, rope_parameters=rope))


@pytest.mark.parametrize("length", [100, 2048, 2049, 5000])
def test_dynamic_follows_the_length(length: int) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert_equal(LlamaConfig(**BASE, max_position_embeddings=2048, rope_parameters=rope), length)


@pytest.mark.parametrize("given", [{}, {"factor": 8.0}, {"attention_factor": 1.3}])
@pytest.mark.parametrize("length", [100, 4096, 4097, 16384])
def test_longrope_follows_the_length(length: int, given: dict[str, float]) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": 4096,
        **given,
    }
    assert_equal(LlamaConfig(**BASE, max_position_embeddings=16384, rope_parameters=rope), length)


@pytest.mark.parametrize("kind", ["default", "linear", "longrope", "proportional"])
def test_float32_whatever_the_default_dtype_and_device_are(kind: str) -> None:
    rope = {"rope_type": kind, "factor": 2.0, "short_factor": SHORT, "long_factor": LONG}
    config = from_transformers({**BASE, "rope_scaling": rope, "partial_rotary_factor": 1.0})
    expected, _ = frequencies(config.rope, config.head_dim, 2048)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            ours, _ = frequencies(config.rope, config.head_dim, 2048)
    finally:
        torch.set_default_dtype(before)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("positions", [20, 80, 500])
def test_tables_are_as_long_as_texts_are_at_most(positions: int) -> None:
    """Of a model for 128 positions, whose prompts of more than 32 are rotated in another way."""
    rope = {"rope_type": "longrope", "factor": 4.0, "short_factor": SHORT, "long_factor": LONG}
    config = from_transformers(
        {**BASE, "max_position_embeddings": 128, "original_max_position_embeddings": 32, "rope_scaling": rope}
    )
    whole, bounded = Rotary(config), Rotary(config)
    bounded.bound_positions(positions)
    for rotary in (whole, bounded):
        rotary.prepare(torch.device("cpu"))
    size = min(positions, 128)
    assert config.prompt_regimes == (32,)
    assert (len(whole.table), len(bounded.table)) == (2 * 128, 2 * size)
    assert torch.equal(whole.table.view(2, 128, -1)[:, :size], bounded.table.view(2, size, -1))


@pytest.mark.parametrize("drafting", [False, True])
def test_an_engine_has_tables_of_the_length_that_it_serves(
    drafting: bool, plugin_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, lengths = Rotary.prepare, []

    def recorded(rotary: Rotary, device: torch.device) -> None:
        prepare(rotary, device)
        lengths.append(len(rotary.table))

    monkeypatch.setattr(Rotary, "prepare", recorded)
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"], max_position_embeddings=256)
    model: Any = randomised(ArchitectureChecks.reference(config))
    model.save_pretrained(tmp_path)
    draft = {"speculative_method": "standalone", "draft_model_path": str(tmp_path)} if drafting else {}
    served = Served(tmp_path, plugin_host(), max_length=40, **draft)
    assert lengths == [40] * (1 + drafting)
    assert served.answers([[5, 6, 7]], 37)[0].tokens == continuation(model, [5, 6, 7], 37).tokens
