"""config.json in both spellings, defaults as transformers has them, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from transformers import LlamaConfig, Qwen3Config

from maxserve.architectures import qwen3
from maxserve.architectures.layers.config import ACTIVATIONS, ModelConfig, RopeConfig, from_transformers
from maxserve.architectures.layers.mlp import ACTIVATIONS as LAYER_ACTIVATIONS
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.errors import ModelError

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
FACTORS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}


def read(**changes: Any) -> ModelConfig:
    return from_transformers({**SIZES, **changes})


def test_missing_keys_have_the_defaults_of_llama() -> None:
    theirs, ours = LlamaConfig(**SIZES), read()
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.head_dim
    assert ours.max_length == theirs.max_position_embeddings
    assert ours.eps == theirs.rms_norm_eps
    assert ours.activation == theirs.hidden_act
    assert (ours.attention_bias, ours.o_bias, ours.mlp_bias) == (theirs.attention_bias,) * 2 + (theirs.mlp_bias,)
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.eos_token_ids == (theirs.eos_token_id,)
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    assert ours.rope.kind == theirs.rope_parameters["rope_type"]


def test_missing_keys_have_the_defaults_of_qwen3() -> None:
    sizes = {**SIZES, "num_attention_heads": 64}
    theirs, ours = Qwen3Config(**sizes), qwen3.config(sizes)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.head_dim
    assert ours.max_length == theirs.max_position_embeddings
    assert ours.eps == theirs.rms_norm_eps
    assert ours.eos_token_ids == ()
    assert theirs.eos_token_id is None
    assert {layer.window for layer in ours.cache_layers} == {None}


def test_what_is_given_is_taken() -> None:
    config = read(
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        hidden_act="gelu",
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        eos_token_id=[7, 9],
        rope_theta=5e5,
    )
    assert config == ModelConfig(
        vocab_size=100,
        dim=64,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=32,
        ffn_dim=96,
        max_length=4096,
        eps=1e-5,
        activation="gelu",
        attention_bias=True,
        o_bias=True,
        mlp_bias=True,
        tied=True,
        rope=RopeConfig(theta=5e5, original_length=4096),
        eos_token_ids=(7, 9),
    )
    assert config.cache_layers == (CacheLayer(kv_heads=2, head_dim=32),) * 3


@pytest.mark.parametrize("head_dim", [None, 0])
def test_no_head_dim_means_an_even_share(head_dim: int | None) -> None:
    assert read(head_dim=head_dim).head_dim == 16


ROPES = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": LLAMA3,
    "yarn": {"factor": 4.0, "beta_fast": 16, "attention_factor": 1.2, "original_max_position_embeddings": 512},
    "longrope": {"short_factor": FACTORS, "long_factor": FACTORS, "original_max_position_embeddings": 512},
}


@pytest.mark.parametrize("kind", ROPES)
def test_old_and_new_spelling_of_rope_mean_the_same(kind: str) -> None:
    fields = ROPES[kind]
    old = read(rope_theta=7e4, rope_scaling={"rope_type": kind, **fields})
    older = read(rope_theta=7e4, rope_scaling={"type": kind, **fields})
    new = read(rope_parameters={"rope_type": kind, "rope_theta": 7e4, **fields})
    assert old == older == new
    assert new.rope.kind == kind
    assert new.rope.theta == 7e4
    for name, value in fields.items():
        if name != "original_max_position_embeddings":
            assert getattr(new.rope, name) == (tuple(value) if isinstance(value, list) else value)


def test_original_length() -> None:
    """In the rope's table, beside it (which wins, as in transformers), or the model's own."""
    inside = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read(rope_scaling=inside).rope.original_length == 512
    assert read(rope_scaling=inside, original_max_position_embeddings=256).rope.original_length == 256
    assert read(rope_scaling={"rope_type": "yarn", "factor": 4.0}).rope.original_length == 2048
    assert read(rope_scaling={"rope_type": "dynamic", "factor": 4.0}).rope.original_length == 2048


def test_a_factor_that_is_not_given_follows_from_the_lengths() -> None:
    longrope = {"rope_type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS}
    rope = read(rope_scaling=longrope, original_max_position_embeddings=512).rope
    assert rope.factor == 4.0


def test_regimes_of_prompts() -> None:
    """Only longrope has two, and only if a prompt can be longer than the original length."""
    longrope = {"rope_type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS}
    given = {"rope_scaling": longrope, "max_position_embeddings": 2048}
    assert read(**given, original_max_position_embeddings=512).prompt_regimes == (512,)
    assert read(**given, original_max_position_embeddings=2048).prompt_regimes == ()
    assert read(**given).prompt_regimes == ()
    for kind in ROPES.keys() - {"longrope"}:
        assert read(rope_scaling={"rope_type": kind, **ROPES[kind]}).prompt_regimes == ()


def test_partial_rotary() -> None:
    assert read(partial_rotary_factor=0.5).rope.partial == 0.5
    assert read(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.25}).rope.partial == 0.25
    assert read(partial_rotary_factor=0.5).rope.width(16) == 8


def test_windows_by_layer() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    windows = [layer.window for layer in read(layer_types=kinds, sliding_window=9).cache_layers]
    assert windows == [None, 9, None]


@pytest.mark.parametrize("use", [False, True])
@pytest.mark.parametrize("first", [0, 2, 28])
def test_windows_of_qwen3(use: bool, first: int) -> None:
    raw = {
        **SIZES,
        "num_key_value_heads": 2,
        "use_sliding_window": use,
        "sliding_window": 9,
        "max_window_layers": first,
    }
    theirs = Qwen3Config(**raw).layer_types
    ours = qwen3.config(raw).cache_layers
    assert [layer.window for layer in ours] == [9 if kind == "sliding_attention" else None for kind in theirs]
    saved = qwen3.config({**raw, "layer_types": theirs, "sliding_window": 9 if use else None})
    assert saved.cache_layers == ours


def test_a_window_left_over_in_a_llama_is_ignored_as_transformers_does() -> None:
    assert read(model_type="llama", sliding_window=4096).windows == ()


REFUSED = {
    "no size": ({"hidden_size": None}, "no 'hidden_size'"),
    "text as a size": ({"num_hidden_layers": "3"}, "'num_hidden_layers' is '3'"),
    "negative size": ({"vocab_size": -1}, "'vocab_size' is -1"),
    "text as a number": ({"rms_norm_eps": "1e-5"}, "'rms_norm_eps' is '1e-5', but must be a number"),
    "text as a factor": ({"rope_scaling": {"type": "linear", "factor": "2"}}, "'factor' is '2'"),
    "activation": ({"hidden_act": "mish"}, "activation 'mish' is not supported; supported: gelu"),
    "heads": ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    "head size": ({"hidden_size": 65}, "hidden_size 65 is no multiple of num_attention_heads 4; set head_dim"),
    "odd head": ({"head_dim": 15}, "even number of entries per head, not 15"),
    "rope kind": ({"rope_scaling": {"type": "ntk"}}, "rope type 'ntk' is not known; known: default"),
    "nested rope": ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "differs by layer"),
    "rope without factor": ({"rope_scaling": {"type": "linear"}}, "rope type 'linear' needs 'factor'"),
    "longrope": (
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": FACTORS}},
        "'short_factor' has 1 entries, but must have 8",
    ),
    "few layer types": ({"layer_types": ["full_attention"]}, "'layer_types' names 1 layers of 3"),
    "layer type": ({"layer_types": ["chunked_attention"] * 3}, "layer type 'chunked_attention' is not known"),
    "window size": ({"layer_types": ["sliding_attention"] * 3}, "'sliding_window' is not set"),
    "bare window": ({"model_type": "mistral", "sliding_window": 8}, "'mistral' sets 'sliding_window'"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json") as raised:
        read(**changes)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_activation_that_is_accepted_exists() -> None:
    assert set(LAYER_ACTIVATIONS) == ACTIVATIONS


def test_reading_a_config_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, maxserve.architectures.layers.config; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rope_parameters_of_a_wrong_kind_are_named() -> None:
    with pytest.raises(ModelError, match="must be an object, not list"):
        read(rope_parameters=[1])
