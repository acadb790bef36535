"""Metadata of a GGUF file out of a config.json: the inverse of `config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.config import HIGH, LOW, ORIGINAL, divisors
from maxserve.plugins.gguf.families import Family
from maxserve.plugins.gguf.types import FILE_TYPES

_QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION
_FILE_TYPES = {encoding: number for number, encoding in reversed(FILE_TYPES.items())}  # the first of several


def full_config(config: Mapping[str, Any], ref: str) -> dict[str, Any]:
    """The content of config.json with what transformers has for what it does not say; ropes as "rope_parameters"."""
    from transformers import AutoConfig

    kind = config.get("model_type")
    try:
        given = {key: value for key, value in config.items() if key != "model_type"}
        full: dict[str, Any] = AutoConfig.for_model(str(kind), **given).to_dict()
    except Exception as error:  # of any kind: transformers checks values in classes of many kinds
        raise ModelError(f"{ref}: transformers cannot read config.json of model type {kind!r:.80}: {error}") from error
    return full


def model_metadata(architecture: str, family: Family, given: Mapping[str, Any], encoding: str) -> dict[str, Any]:
    """Keys of `given`, what `full_config` gives, but for the tokenizer's; ModelError for a rope that has no keys."""
    head_dim = _head_dim(given)
    keys = {
        "context_length": given["max_position_embeddings"],
        "embedding_length": given["hidden_size"],
        "block_count": given["num_hidden_layers"],
        "feed_forward_length": given["intermediate_size"],
        "attention.head_count": given["num_attention_heads"],
        "attention.head_count_kv": given.get("num_key_value_heads") or given["num_attention_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": given["vocab_size"],
        **_rope(given, head_dim),
        **family.metadata(given),
    }
    if given.get("rms_norm_eps"):
        keys["attention.layer_norm_rms_epsilon"] = float(given["rms_norm_eps"])
    general = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.file_type": _FILE_TYPES[encoding],
        "general.quantization_version": _QUANTIZATION_VERSION,
    }
    return {**general, **{f"{architecture}.{key}": value for key, value in keys.items()}}


def rope_factors(given: Mapping[str, Any]) -> dict[str, list[float]]:
    """Tensors of factors of rotary frequencies, by name."""
    table = rope_table(given)
    if table.get("rope_type") == "llama3":
        count = _head_dim(given) // 2
        factor, theta, high = (float(table[key]) for key in ("factor", "rope_theta", "high_freq_factor"))
        return {"rope_freqs.weight": list(divisors(factor, count, theta, high))}
    if table.get("rope_type") == "longrope":
        return {f"rope_factors_{each}.weight": list(map(float, table[f"{each}_factor"])) for each in ("long", "short")}
    return {}


def explicit(given: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the factor of long ropes, which files have to say, a head of its own, as they may have, and no
    layers that predict further tokens, which are left out."""
    changed = {**given, "tie_word_embeddings": False}
    if "num_nextn_predict_layers" in given:
        changed["num_nextn_predict_layers"] = 0
    table = rope_table(given)
    if table.get("rope_type") == "longrope":
        changed["rope_parameters"] = {**table, "attention_factor": _attention_factor(given)}
    return changed


def rope_table(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope of layers that see everything."""
    tables: Mapping[str, Any] = given.get("rope_parameters") or {}
    table: Mapping[str, Any] = tables.get("full_attention", tables)
    return table


def _head_dim(given: Mapping[str, Any]) -> int:
    return int(given.get("head_dim") or given["hidden_size"] // given["num_attention_heads"])


def _rope(given: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    table = rope_table(given)
    made: dict[str, Any] = {
        "rope.dimension_count": int(head_dim * table.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(table.get("rope_theta", 10000.0)),
    }
    sliding = (given.get("rope_parameters") or {}).get("sliding_attention")
    if sliding:
        made["rope.freq_base_swa"] = float(sliding["rope_theta"])
    return made | _scaling(given, table)


def _scaling(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    kind = table.get("rope_type", "default")
    if kind == "default":
        return {}
    if kind == "llama3":
        _check_llama3(table)
        return {}
    if kind == "longrope":
        return {"rope.scaling.attn_factor": _attention_factor(given)}
    if kind not in ("linear", "yarn"):
        raise ModelError(f"config.json: GGUF files have no rope type {kind!r:.80}; use the checkpoint as it is")
    made = {"rope.scaling.type": kind, "rope.scaling.factor": float(table["factor"])}
    return made if kind == "linear" else made | _yarn(given, table)


def _yarn(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    length = table.get("original_max_position_embeddings") or given["max_position_embeddings"]
    numbers = {
        "rope.scaling.attn_factor": "attention_factor",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    said = {key: float(table[name]) for key, name in numbers.items() if table.get(name) is not None}
    return {"rope.scaling.original_context_length": int(length), **said}


def _check_llama3(table: Mapping[str, Any]) -> None:
    """ModelError unless a file's factors tell which scaling they are of."""
    known = {
        "low_freq_factor": (LOW,),
        "high_freq_factor": (HIGH, LOW),
        "original_max_position_embeddings": (ORIGINAL,),
    }
    for key, values in known.items():
        if table.get(key) not in values:
            raise ModelError(
                f"config.json: the rope's {key} is {table.get(key)}, where GGUF files are written with "
                f"{' or '.join(map(str, values))} only; use the checkpoint as it is"
            )


def _attention_factor(given: Mapping[str, Any]) -> float:
    """What a long rope multiplies rotated queries and keys by: transformers' modeling_rope_utils.py."""
    table = rope_table(given)
    if table.get("attention_factor") is not None:
        return float(table["attention_factor"])
    original = given.get("original_max_position_embeddings") or table["original_max_position_embeddings"]
    share = given["max_position_embeddings"] / original
    return 1.0 if share <= 1 else math.sqrt(1 + math.log(share) / math.log(original))
