"""What config.json says about an encoder: a BERT and its relatives. Read without torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxserve.architectures.layers.config import ACTIVATIONS
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Sizes and choices of an encoder whose tokens see their whole text.

    `token_types` is how many kinds of parts a text may have, 0 where they are not distinguished. With a `pad` token the
    positions begin after its number, and it has none itself. `buckets`: relative positions add to the scores of
    attention, through so many numbers per head. `labels` is how many numbers a classifier on top gives.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    positions: int
    token_types: int = 2
    eps: float = 1e-12
    activation: str = "gelu"
    pad: int | None = None
    buckets: int = 0
    labels: int = 2

    @property
    def max_length(self) -> int:
        """Tokens of the longest text."""
        return self.positions if self.pad is None else self.positions - self.pad - 1

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        """Nothing is kept: a token sees those after it too."""
        return ()

    @property
    def prompt_regimes(self) -> tuple[int, ...]:
        return ()


# What transformers' BertConfig has where config.json says nothing; RobertaConfig and MPNetConfig hardly differ.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def encoder_config(raw: Mapping[str, Any], *, pad: int | None = None, buckets: int = 0) -> EncoderConfig:
    """The config in `raw`, the content of config.json; ModelError for sizes that are wrong and kinds not known."""
    _validate_kinds(raw)
    found = {key: DEFAULTS[key] if raw.get(key) is None else raw[key] for key in DEFAULTS}
    sizes = {key: value for key, value in found.items() if isinstance(DEFAULTS[key], int)}
    for key, value in sizes.items():
        least = 0 if key == "type_vocab_size" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(f"config.json: {key!r} is {value!r}, but must be a positive whole number")
    if found["hidden_size"] % found["num_attention_heads"]:
        raise ModelError(
            f"config.json: hidden_size {found['hidden_size']} is no multiple of num_attention_heads "
            f"{found['num_attention_heads']}"
        )
    if found["hidden_act"] not in ACTIVATIONS:
        raise ModelError(
            f"config.json: hidden_act {found['hidden_act']!r} is not known; known: {', '.join(sorted(ACTIVATIONS))}"
        )
    return EncoderConfig(
        vocab_size=found["vocab_size"],
        dim=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        ffn_dim=found["intermediate_size"],
        positions=found["max_position_embeddings"],
        token_types=0 if buckets else found["type_vocab_size"],
        eps=float(found["layer_norm_eps"]),
        activation=found["hidden_act"],
        pad=pad,
        buckets=buckets,
        labels=_labels(raw),
    )


def _validate_kinds(raw: Mapping[str, Any]) -> None:
    kind = raw.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise ModelError(f"config.json: position_embedding_type {kind!r} is not supported, only absolute")
    if raw.get("is_decoder"):
        raise ModelError("config.json: is_decoder is set, but this architecture is served as an encoder only")


def _labels(raw: Mapping[str, Any]) -> int:
    names = raw.get("id2label")
    found = raw.get("num_labels") or (len(names) if isinstance(names, Mapping) and names else 2)
    return int(found)


def scorer_config(config: EncoderConfig) -> EncoderConfig:
    """The same, of a model that scores pairs; ModelError when it distinguishes classes."""
    if config.labels != 1:
        raise ModelError(
            f"config.json: the model has {config.labels} labels, so it is a classifier; what is served gives one score "
            "for a pair of texts (num_labels 1)"
        )
    return config
