"""config.json out of the metadata of a GGUF file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import pi
from pathlib import Path
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.container import Container
from maxserve.plugins.gguf.families import Family, Keys
from maxserve.plugins.gguf.types import FILE_TYPES, PLAIN

# How Llama 3.1 and 3.2, and EXAONE 3.5, stretch their ropes; files have only what comes out for each frequency.
LOW, HIGH, ORIGINAL = 1.0, 4.0, 8192
_ENDS = ("eos", "eot", "eom")


def config_of(container: Container, keys: Keys, family: Family) -> dict[str, Any]:
    """The content of config.json; ModelError naming the key that is missing."""
    embedding = container.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{container.path} has no token_embd.weight; is it the file of a whole model?")
    if not 0 < keys.number("block_count") <= len(container.tensors):
        raise ModelError(f"{container.path}: it has {len(container.tensors)} tensors, too few for its block_count")
    if not keys.number("attention.head_count") or not keys.kv_heads:
        raise ModelError(f"{container.path}: its numbers of heads are 0; fetch it again")
    base = _encoder(container, keys) if family.encoder else _decoder(container, keys)
    own: dict[str, Any] = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        "vocab_size": embedding.shape[0],
    }
    given = {**own, **{key: value for key, value in base.items() if value is not None}, **family.config(keys)}
    if any(place.type.name not in PLAIN for place in container.tensors.values()):
        given["quantization_config"] = {"quant_method": "gguf", "encoding": encoding_of(container)}
    return given


def _decoder(container: Container, keys: Keys) -> dict[str, Any]:
    """What config.json says of all models that generate texts."""
    return {
        "hidden_size": keys.number("embedding_length"),
        "intermediate_size": keys.get("feed_forward_length") and keys.number("feed_forward_length"),
        "num_hidden_layers": keys.number("block_count") - keys.get("nextn_predict_layers", 0),
        "num_attention_heads": keys.number("attention.head_count"),
        "num_key_value_heads": keys.kv_heads,
        "head_dim": keys.head_dim,
        "max_position_embeddings": keys.number("context_length"),
        "rms_norm_eps": keys.get("attention.layer_norm_rms_epsilon", 1e-6),
        "tie_word_embeddings": "output.weight" not in container.tensors,
        "attention_bias": "blk.0.attn_q.bias" in container.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in container.tensors,
        "bos_token_id": container.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_tokens(container),
        "rope_theta": keys.get("rope.freq_base", 10000.0),
        "rope_scaling": _scaling(container, keys),
        "torch_dtype": "float32",
    }


def _encoder(container: Container, keys: Keys) -> dict[str, Any]:
    """What config.json says of a BERT, and of a RoBERTa, whose positions before the first one are not in the file.

    With a classifier it is a RoBERTa: BERT's own has a pooler in front, which files do not have.
    """
    tensors = container.tensors
    shapes = {name: tensors[name].shape for name in ("position_embd.weight", "token_types.weight") if name in tensors}
    kinds = shapes.get("token_types.weight", ())
    made: dict[str, Any] = {
        "hidden_size": keys.number("embedding_length"),
        "intermediate_size": keys.number("feed_forward_length"),
        "num_hidden_layers": keys.number("block_count"),
        "num_attention_heads": keys.number("attention.head_count"),
        "max_position_embeddings": shapes.get("position_embd.weight", (keys.number("context_length"),))[0],
        "type_vocab_size": kinds[0] if len(kinds) == 2 else len(kinds),  # DistilBERT distinguishes none
        "layer_norm_eps": keys.get("attention.layer_norm_epsilon", 1e-12),
        "torch_dtype": "float32",
    }
    if "cls.output.weight" not in tensors:
        return made
    if "cls.weight" not in tensors:
        raise ModelError(
            f"{container.path}: its classifier, cls.output, has no layer before it, cls, without which its scores are "
            "others; use a checkpoint in safetensors"
        )
    before_first = -1  # RoBERTa's positions begin after the number of the pad token
    labels = tensors["cls.output.weight"].shape[0]
    return {
        **made,
        "architectures": ["RobertaForSequenceClassification"],
        "model_type": "roberta",
        "pad_token_id": before_first,
        "num_labels": labels,
    }


# How vectors of tokens become one, by {architecture}.pooling_type: llama.cpp's llama_pooling_type.
_POOLINGS = {1: "mean", 2: "cls", 3: "lasttoken"}


def sentence_files(container: Container, keys: Keys) -> dict[str, Any]:
    """What sentence-transformers keeps beside a model, by file name; empty where the file says nothing of pooling.

    Files do not say whether vectors are normalized; llama.cpp's server always does so.
    """
    kind = keys.get("pooling_type")
    if kind not in _POOLINGS or "cls.output.weight" in container.tensors:
        return {}
    module = "sentence_transformers.models."
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"idx": i, "path": path, "type": module + type} for i, (path, type) in enumerate(steps)]
    pooling = {"word_embedding_dimension": keys.number("embedding_length"), "pooling_mode": _POOLINGS[kind]}
    return {"modules.json": modules, "1_Pooling/config.json": pooling}


def end_tokens(container: Container) -> list[int]:
    """The ids of all tokens that end an answer."""
    ids = (container.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in _ENDS)
    return sorted({id for id in ids if isinstance(id, int)})


# Defaults of sampling, as generation_config.json and GGUF files call them.
SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def sampling_of(container: Container) -> dict[str, Any]:
    """What the file says of how to sample, as generation_config.json says it."""
    said = {ours: container.metadata.get(f"general.sampling.{theirs}") for ours, theirs in SAMPLING.items()}
    given = {name: value for name, value in said.items() if isinstance(value, int | float)}
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in given.items()}


def encoding_of(container: Container) -> str:
    """What most of the weights are, as `--quantization-encoding` calls it."""
    named = FILE_TYPES.get(container.metadata.get("general.file_type", -1))
    if named is not None:
        return named
    sizes: dict[str, int] = {}
    for place in container.tensors.values():
        sizes[place.type.name] = sizes.get(place.type.name, 0) + place.size
    return max(sizes, key=lambda name: sizes[name]).lower()


def _scaling(container: Container, keys: Keys) -> dict[str, Any] | None:
    """How the rope is stretched, by tensors of factors or by keys."""
    if "rope_freqs.weight" in container.tensors:
        return _llama3(container, keys)
    if "rope_factors_long.weight" in container.tensors:
        return _longrope(container, keys)
    kind = keys.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{container.path}: {keys.architecture}.rope.scaling.type {kind!r:.80} is not known")
    table = {"rope_type": kind, "factor": keys.number("rope.scaling.factor")}
    if kind == "yarn":
        table |= _yarn(keys)
    return table


def _yarn(keys: Keys) -> dict[str, Any]:
    given = {
        "original_max_position_embeddings": keys.get("rope.scaling.original_context_length"),
        "attention_factor": keys.get("rope.scaling.attn_factor"),
        "beta_fast": keys.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": keys.get("rope.scaling.yarn_beta_slow"),
    }
    own: dict[str, Any] = {"truncate": False} if keys.architecture == "gpt-oss" else {}
    if keys.get("rope.scaling.yarn_log_multiplier") is not None:
        scale = round(10 * float(keys.number("rope.scaling.yarn_log_multiplier")), 6)  # as llama.cpp's converter has it
        own |= {"mscale": scale, "mscale_all_dim": scale}
    return own | {key: value for key, value in given.items() if value is not None}


def _longrope(container: Container, keys: Keys) -> dict[str, Any]:
    long, short = (_floats(container, f"rope_factors_{each}.weight") for each in ("long", "short"))
    table = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    factor = keys.get("rope.scaling.attn_factor")
    return table if factor is None else {**table, "attention_factor": factor}


def _llama3(container: Container, keys: Keys) -> dict[str, Any]:
    """The scaling whose divisors of frequencies the file has; ModelError where they are those of no known one."""
    given = _floats(container, "rope_freqs.weight")
    factor = max(given)
    for high in (HIGH, LOW):  # Llama 4 has no frequencies between those that are stretched and those that are not
        expected = divisors(factor, len(given), keys.get("rope.freq_base", 10000.0), high)
        if all(abs(a - b) <= 1e-3 * b for a, b in zip(given, expected, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": round(factor, 4),
                "low_freq_factor": LOW,
                "high_freq_factor": high,
                "original_max_position_embeddings": ORIGINAL,
            }
    raise ModelError(
        f"{container.path}: rope_freqs.weight is not how Llama 3 stretches its rope; give the model's own config "
        "with --model, and this file with --weight-path"
    )


def divisors(factor: float, count: int, theta: float, high: float = HIGH) -> Sequence[float]:
    """What Llama 3 divides the frequencies by: transformers' modeling_rope_utils.py."""
    made = []
    for i in range(count):
        wavelength = 2 * pi * theta ** (i / count)
        if wavelength < ORIGINAL / high:
            made.append(1.0)
        elif wavelength > ORIGINAL / LOW:
            made.append(factor)
        else:
            smooth = (ORIGINAL / wavelength - LOW) / (high - LOW)
            made.append(1 / ((1 - smooth) / factor + smooth))
    return made


def _floats(container: Container, name: str) -> list[float]:
    place = container.tensors.get(name)
    if place is None or place.type.name != "F32" or len(place.shape) != 1:
        raise ModelError(f"{container.path}: {name} is missing, or no list of float32 numbers")
    with Path(container.path).open("rb") as file:
        file.seek(place.offset)
        return list(struct.unpack(f"<{place.shape[0]}f", file.read(place.size)))
