"""Each family's config.json is read as transformers' own config class reads it: old spellings, nulls, missing keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from transformers import AutoConfig

from maxserve.architectures.layers.config import ModelConfig
from maxserve.architectures.layers.rope_config import RopeConfig
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.registry.host import PluginHost, PluginOptions

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Phi3ForCausalLM": "phi3",
    "GraniteForCausalLM": "granite",
    "OlmoForCausalLM": "olmo",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo3",
    "Exaone4ForCausalLM": "exaone4",
}
ALL_LAYERS = {"mistral", "phi3"}  # a window is that of every layer
NO_WINDOWS = {"llama", "granite", "olmo", "olmo2"}
ROPE_PER_KIND = {"gemma3_text", "olmo3"}
Raw = dict[str, Any]

SIZES: Raw = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
ANY: dict[str, Raw] = {
    "sizes only": {},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "ends": {"eos_token_id": [3, 4]},
    "one end": {"eos_token_id": 5},
    "no end": {"eos_token_id": None},
    "eps": {"rms_norm_eps": 1e-3},
    "theta": {"rope_theta": 123456.0},
    "theta, no scaling": {"rope_theta": 123456, "rope_scaling": None},
    "biases": {"attention_bias": True},
    "biases of the feed-forward part": {"mlp_bias": True},
    "head_dim": {"head_dim": 32},
    "partial_rotary_factor": {"partial_rotary_factor": 0.5, "rope_theta": 5e4},
}
STRETCHED: dict[str, Raw] = {  # kinds of rope that Phi 3 has not
    "linear": {"rope_theta": 7e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama3": {"rope_theta": 7e4, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "yarn": {"rope_theta": 7e4, "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 16}},
    "yarn, original length": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    },
    "yarn, original length beside it": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": 256,
    },
}
NEW: dict[str, Raw] = {  # for one rope of all layers
    "new": {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}},
    "new, no theta": {"rope_parameters": {"rope_type": "default"}},
    "new, theta beside it": {"rope_parameters": {"rope_type": "default"}, "rope_theta": 8e4},
    "new, theta in both places": {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}, "rope_theta": 8e4},
}
NESTED: dict[str, Raw] = {  # for a rope per kind of layer
    "tables": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 7e4, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
        }
    },
    "tables without theta": {
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "factor": 8.0},
            "sliding_attention": {"rope_type": "default"},
        }
    },
    "one table": {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
    "one table and null": {
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": None},
        "rope_theta": 9e4,
    },
    "local theta": {"rope_theta": 5e5, "rope_local_base_freq": 2e4},
    "local theta, scaling": {
        "rope_theta": 5e5,
        "rope_local_base_freq": 2e4,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
}
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"] * 2
OWN: dict[str, dict[str, Raw]] = {
    "llama": {
        "no key heads said": {"num_key_value_heads": None},
        "no head_dim": {"head_dim": None},
        "a window left over": {"sliding_window": 9},
    },
    "mistral": {
        "window": {"sliding_window": 9},
        "no window": {"sliding_window": None},
        "no head_dim": {"head_dim": None},
    },
    "qwen2": {
        "windows": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3},
        "windows of no size": {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 3},
        "windows of the default size": {"use_sliding_window": True, "max_window_layers": 0},
        "no layer is high enough": {"use_sliding_window": True, "sliding_window": 9},
        "unused windows": {"use_sliding_window": False, "sliding_window": 9, "max_window_layers": 3},
        "layer types": {"use_sliding_window": True, "sliding_window": 9, "layer_types": KINDS[:7]},
        "no key heads said": {"num_key_value_heads": None},
    },
    "gemma2": {
        "caps": {"attn_logit_softcapping": 7.0, "final_logit_softcapping": 8.0},
        "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "scalar": {"query_pre_attn_scalar": 144},
        "window": {"sliding_window": 9},
        "layer types": {"sliding_window": 9, "layer_types": [*KINDS[1:7], "full_attention"]},
        "activation under its old name": {"hidden_act": "relu"},
        "activation": {"hidden_act": "relu", "hidden_activation": "gelu"},
    },
    "gemma3_text": {
        "pattern": {"sliding_window": 9, "sliding_window_pattern": 2},
        "pattern and layer types": {"sliding_window_pattern": 2, "layer_types": KINDS[:7]},
        "a pattern saved by old releases": {"_sliding_window_pattern": 2},
        "cap": {"final_logit_softcapping": 8.0},
        "no cap": {"final_logit_softcapping": None},
        "scalar": {"query_pre_attn_scalar": 144},
    },
    "phi3": {
        "window": {"sliding_window": 9},
        "longrope": {"rope_scaling": {"type": "longrope", **FACTORS}, "original_max_position_embeddings": 512},
        "longrope, old": {
            "rope_scaling": {"type": "su", "original_max_position_embeddings": 512, **FACTORS},
            "original_max_position_embeddings": 512,
        },
        "longrope, older": {"rope_scaling": {"type": "yarn", **FACTORS}, "original_max_position_embeddings": 512},
        "longrope, no original length": {"rope_scaling": {"type": "longrope", **FACTORS}},
        "longrope, new": {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 7e4, "factor": 3.0, **FACTORS},
            "original_max_position_embeddings": 512,
        },
        "longrope, original length within": {
            "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 512, **FACTORS},
        },
        "rotated in part": {"partial_rotary_factor": 0.75},
        "rotated in part, new": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
        "no key heads said": {"num_key_value_heads": None},
    },
    "granite": {
        "multipliers": {
            "embedding_multiplier": 12,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0078125,
        },
        "both biases": {"attention_bias": True, "mlp_bias": True},
        "no key heads said": {"num_key_value_heads": None},
    },
    "olmo": {
        "clip": {"clip_qkv": 8.0},
        "no clip": {"clip_qkv": None},
        "no key heads said": {"num_key_value_heads": None},
    },
    "olmo2": {"no key heads said": {"num_key_value_heads": None}},
    "olmo3": {
        "window": {"sliding_window": 9},
        "layer types": {"sliding_window": 9, "layer_types": KINDS[:7]},
        "no key heads said": {"num_key_value_heads": None},
    },
    "exaone4": {
        "window": {"sliding_window": 9},
        "pattern": {"sliding_window": 9, "sliding_window_pattern": 3},
        "not hybrid": {"sliding_window": None, "layer_types": ["full_attention"] * 7},
        "layer types": {"sliding_window": 9, "sliding_window_pattern": "LLLG", "layer_types": KINDS[:7]},
    },
}
OWN["qwen3"] = OWN["qwen2"]


def variations(family: str) -> dict[str, Raw]:
    ropes = NESTED if family in ROPE_PER_KIND else NEW
    return ANY | ropes | ({} if family == "phi3" else STRETCHED) | OWN[family]


def read(architecture: str, raw: Mapping[str, Any]) -> Any:
    host = PluginHost.discover(PluginOptions(), strict=True)
    entry = host.architectures.get(architecture)
    return host.load(entry, entry.component.config)(raw)


@pytest.mark.parametrize(
    ("architecture", "name"), [(key, name) for key, family in FAMILIES.items() for name in ["", *variations(family)]]
)
def test_as_transformers_reads_it(architecture: str, name: str) -> None:
    """`name` empty: nothing is in config.json but what model it is."""
    family = FAMILIES[architecture]
    raw = {**SIZES, **variations(family)[name]} if name else {}
    theirs = AutoConfig.for_model(family, **copy_of(raw))
    theirs.standardize_rope_params()  # once more, as its models do before they compute frequencies
    written = {"architectures": [architecture], "model_type": family, **raw}
    compare(family, read(architecture, written), theirs)
    compare(family, read(architecture, {**theirs.to_dict(), "architectures": [architecture]}), theirs)  # as saved anew


def copy_of(raw: Raw) -> Raw:
    """Tables of their own, since config classes write into what they are given."""
    return {key: copy_of(value) if isinstance(value, dict) else value for key, value in raw.items()}


def compare(family: str, ours: ModelConfig, theirs: Any) -> None:
    heads = theirs.num_attention_heads
    plain = {
        "vocab_size": theirs.vocab_size,
        "dim": theirs.hidden_size,
        "layers": theirs.num_hidden_layers,
        "heads": heads,
        "kv_heads": theirs.num_key_value_heads,
        "head_dim": getattr(theirs, "head_dim", theirs.hidden_size // heads),
        "ffn_dim": theirs.intermediate_size,
        "max_length": theirs.max_position_embeddings,
        "tied": theirs.tie_word_embeddings,
        "activation": getattr(theirs, "hidden_activation", None) or theirs.hidden_act,
    }
    assert {key: getattr(ours, key) for key in plain} == plain
    ends = theirs.eos_token_id
    assert list(ours.eos_token_ids) == ([] if ends is None else ends if isinstance(ends, list) else [ends])
    assert ours.eps == (1e-5 if family == "olmo" else theirs.rms_norm_eps)
    assert biases(ours) == biases_of(family, theirs)
    assert [layer.window for layer in ours.cache_layers] == windows(family, theirs)
    for rope, table in zip(ours.layer_ropes, tables(family, theirs), strict=True):
        compare_rope(family, rope, table)
    compare_own(family, ours, theirs)


def biases(ours: ModelConfig) -> tuple[bool, bool, bool]:
    return ours.attention_bias, ours.o_bias, ours.mlp_bias


def biases_of(family: str, theirs: Any) -> tuple[bool, bool, bool]:
    """What the model's class makes of it; some have a bias, or none, whatever the config says."""
    if family == "qwen2":
        return True, False, False
    attention = family not in ("mistral", "phi3", "exaone4") and theirs.attention_bias
    return attention, attention, family in ("llama", "granite") and theirs.mlp_bias


def windows(family: str, theirs: Any) -> list[int | None]:
    if family in NO_WINDOWS:
        return [None] * theirs.num_hidden_layers
    if family in ALL_LAYERS:
        return [theirs.sliding_window] * theirs.num_hidden_layers
    return [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]


def tables(family: str, theirs: Any) -> list[dict[str, Any] | None]:
    """The rope of each layer, None where nothing is rotated."""
    if family in ROPE_PER_KIND:
        return [theirs.rope_parameters[kind] for kind in theirs.layer_types]
    if family == "exaone4" and theirs.sliding_window is not None:
        return [theirs.rope_parameters if kind == "sliding_attention" else None for kind in theirs.layer_types]
    return [theirs.rope_parameters] * theirs.num_hidden_layers


def compare_rope(family: str, ours: RopeConfig | None, table: dict[str, Any] | None) -> None:
    if ours is None or table is None:
        assert ours is table
        return
    assert ours.kind == table["rope_type"]
    assert ours.theta == table["rope_theta"]
    for key in ("factor", "beta_fast", "attention_factor", "low_freq_factor", "high_freq_factor"):
        if key in table:
            assert getattr(ours, key) == table[key]
    if ours.kind in ("yarn", "llama3", "longrope"):
        assert ours.original_length == table.get("original_max_position_embeddings", 4096)
    assert list(ours.short_factor) == table.get("short_factor", [])
    assert list(ours.long_factor) == table.get("long_factor", [])
    assert ours.partial == (table["partial_rotary_factor"] if family == "phi3" else 1.0)


def compare_own(family: str, ours: Any, theirs: Any) -> None:
    """What only some families have."""
    if family in ("gemma2", "gemma3_text"):
        assert ours.scale == theirs.query_pre_attn_scalar**-0.5
        assert ours.softcap == (theirs.attn_logit_softcapping if family == "gemma2" else None)
        assert ours.logits_softcap == theirs.final_logit_softcapping
    elif family == "granite":
        assert ours.scale == theirs.attention_multiplier
        for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
            assert getattr(ours, key) == getattr(theirs, key)
    else:
        assert (ours.scale, ours.softcap) == (None, None)
    if family == "olmo":
        assert ours.clip == theirs.clip_qkv


def test_a_pattern_spelt_in_letters() -> None:
    """As transformers describes it for EXAONE 4: L has a window, G sees everything, and so does the last layer."""
    raw = {**SIZES, "sliding_window": 9, "sliding_window_pattern": "LLG", "num_hidden_layers": 5}
    config = read("Exaone4ForCausalLM", raw)
    assert [layer.window for layer in config.cache_layers] == [9, 9, None, 9, None]
    assert [rope is None for rope in config.layer_ropes] == [False, False, True, False, True]


@pytest.mark.parametrize("pattern", [None, 0])
def test_no_pattern_means_no_windows(pattern: int | None) -> None:
    config = read("Exaone4ForCausalLM", {**SIZES, "sliding_window": 9, "sliding_window_pattern": pattern})
    assert {layer.window for layer in config.cache_layers} == {None}


REFUSED: dict[str, tuple[str, Raw, str]] = {
    "both ways": ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is set"),
    "another rope": ("Phi3ForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "none of Phi 3's"),
    "window of no size": ("Gemma2ForCausalLM", {"sliding_window": None}, "'sliding_window' is not set"),
    "window that is none": ("MistralForCausalLM", {"sliding_window": 0}, "'sliding_window' is 0"),
    "text for a number": ("GraniteForCausalLM", {"logits_scaling": "8"}, "'logits_scaling' is '8'"),
    "text for a clip": ("OlmoForCausalLM", {"clip_qkv": "8"}, "'clip_qkv' is '8'"),
    "few layer types": ("Olmo3ForCausalLM", {"layer_types": ["full_attention"]}, "names 1 layers of 7"),
    "unknown layer type": ("Gemma3ForCausalLM", {"layer_types": ["chunked_attention"] * 7}, "'chunked_attention'"),
    "ropes that are no tables": ("Olmo3ForCausalLM", {"rope_parameters": [1]}, "must be an object, not list"),
}


@pytest.mark.parametrize(("architecture", "changes", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(architecture: str, changes: Raw, words: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json") as raised:
        read(architecture, {**SIZES, **changes})
    assert words in str(raised.value)
