"""What does config.json say about the model? Read without torch and without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maxserve.core.errors import ModelError
from maxserve.core.nouns import CacheLayer

ACTIVATIONS = frozenset({"silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"})
ROPE_KINDS = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"})

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
# Scalings that stretch from the length of the original training, which may differ from max_position_embeddings.
_WITH_ORIGINAL_LENGTH = frozenset({"yarn", "longrope", "llama3"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """How positions turn queries and keys. Fields a kind does not use have their defaults.

    `original_length` is the length in positions from which a scaling stretches; `attention_factor` None means:
    derived from the other fields; `partial` is the share of each head that is turned.
    """

    theta: float = 10000.0
    kind: str = "default"
    partial: float = 1.0
    factor: float = 1.0
    original_length: int = 2048
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def width(self, head_dim: int) -> int:
        """How many entries of a head are turned."""
        return head_dim if self.kind == "proportional" else int(head_dim * self.partial)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and choices of a decoder. `dim` is the hidden size, `ffn_dim` that of the feed-forward part.

    `windows` holds, per layer, how many positions a token sees (its own included), None for all; empty: all layers
    see everything. `max_length` is how many positions the rotary tables are made for, whatever length is served.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_dim: int
    max_length: int
    eps: float = 1e-6
    activation: str = "silu"
    attention_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    windows: tuple[int | None, ...] = ()
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        windows = self.windows or (None,) * self.layers
        return tuple(CacheLayer(kv_heads=self.kv_heads, head_dim=self.head_dim, window=window) for window in windows)

    @property
    def prompt_regimes(self) -> tuple[int, ...]:
        """The prompt length above which `longrope` turns every token by its long factors, if prompts can exceed it."""
        original = self.rope.original_length
        return (original,) if self.rope.kind == "longrope" and original < self.max_length else ()


def from_transformers(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json; missing keys have the defaults of transformers' LlamaConfig.

    Both spellings are read: `rope_theta` with `rope_scaling`, and `rope_parameters`. A family with other defaults
    fills them in before it calls this. ModelError says what is missing or not known.
    """
    dim, heads = _size(raw, "hidden_size"), _size(raw, "num_attention_heads")
    max_length = _size(raw, "max_position_embeddings", 2048)
    layers = _size(raw, "num_hidden_layers")
    attention_bias = bool(raw.get("attention_bias", False))
    return ModelConfig(
        vocab_size=_size(raw, "vocab_size"),
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=_size(raw, "num_key_value_heads", heads),
        head_dim=_size(raw, "head_dim", 0) or _divided(dim, heads),
        ffn_dim=_size(raw, "intermediate_size"),
        max_length=max_length,
        eps=_number(raw.get("rms_norm_eps", 1e-6), "rms_norm_eps"),
        activation=raw.get("hidden_act", "silu"),
        attention_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        tied=bool(raw.get("tie_word_embeddings", False)),
        rope=_rope(raw, max_length),
        windows=_windows(raw, layers),
        eos_token_ids=_ids(raw.get("eos_token_id", 2)),
    )


def _size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise ModelError(f"config.json has no {key!r}: the model's sizes must be there, nothing is guessed")
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != default):
        raise ModelError(f"config.json: {key!r} is {value!r}, but must be a positive whole number")
    return value


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"config.json: {key!r} is {value!r}, but must be a number")
    return float(value)


def _divided(dim: int, heads: int) -> int:
    if dim % heads:
        raise ModelError(f"config.json: hidden_size {dim} is no multiple of num_attention_heads {heads}; set head_dim")
    return dim // heads


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _windows(raw: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    kinds, window = raw.get("layer_types"), raw.get("sliding_window")
    if kinds is None:
        # LlamaConfig has no windows; converted checkpoints sometimes keep the key of the family they come from.
        if window is not None and raw.get("model_type", "llama") != "llama" and raw.get("use_sliding_window", True):
            raise ModelError(
                f"config.json: model type {raw.get('model_type')!r} sets 'sliding_window' but no 'layer_types': the "
                "architecture must say which layers are meant, in its own config function"
            )
        return ()
    if len(kinds) < layers:
        raise ModelError(f"config.json: 'layer_types' names {len(kinds)} layers of {layers}")
    return tuple(_window(kind, window) for kind in kinds[:layers])


def _window(kind: str, window: int | None) -> int | None:
    if kind == "full_attention":
        return None
    if kind != "sliding_attention":
        raise ModelError(f"config.json: layer type {kind!r} is not known; known: full_attention, sliding_attention")
    if window is None or window < 1:
        raise ModelError("config.json: 'layer_types' has sliding_attention, but 'sliding_window' is not set")
    return window


def _rope(raw: Mapping[str, Any], max_length: int) -> RopeConfig:
    given: Mapping[str, Any] = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ModelError(f"config.json: the rope parameters must be an object, not {type(given).__name__}")
    if any(isinstance(value, Mapping) for value in given.values()):
        raise ModelError("config.json: the rope differs by layer type, which this reading does not know")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise ModelError(f"config.json: rope type {kind!r} is not known; known: {', '.join(sorted(ROPE_KINDS))}")
    for key in _NEEDS.get(kind, ()):
        if given.get(key) is None:
            raise ModelError(f"config.json: rope type {kind!r} needs {key!r}")
    original = _original_length(raw, given, max_length) if kind in _WITH_ORIGINAL_LENGTH else max_length
    fields = {key: _rope_field(given, key) for key in _ROPE_FIELDS if given.get(key) is not None}
    if kind in _WITH_ORIGINAL_LENGTH:
        fields.setdefault("factor", max_length / original)
    return RopeConfig(
        theta=_either(given, raw, "rope_theta", 10000.0),
        kind=kind,
        partial=_either(given, raw, "partial_rotary_factor", 1.0),
        original_length=original,
        **fields,
    )


_ROPE_FIELDS = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
)


def _original_length(raw: Mapping[str, Any], given: Mapping[str, Any], max_length: int) -> int:
    # transformers prefers the key beside the rope's own table over the one in it.
    return _size(raw, "original_max_position_embeddings", 0) or _size(
        given, "original_max_position_embeddings", max_length
    )


def _either(first: Mapping[str, Any], second: Mapping[str, Any], key: str, default: float) -> float:
    for source in (first, second):
        if source.get(key) is not None:
            return _number(source[key], key)
    return default


def _rope_field(given: Mapping[str, Any], key: str) -> Any:
    value = given[key]
    if key == "truncate":
        return bool(value)
    if key in ("short_factor", "long_factor"):
        return tuple(_number(item, key) for item in value)
    return _number(value, key)


def _check(config: ModelConfig) -> None:
    if config.heads % config.kv_heads:
        raise ModelError(
            f"config.json: num_attention_heads {config.heads} is no multiple of num_key_value_heads {config.kv_heads}"
        )
    if config.windows and len(config.windows) != config.layers:
        raise ModelError(f"config: {len(config.windows)} windows are given for {config.layers} layers")
    if config.activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ModelError(f"config.json: activation {config.activation!r} is not supported; supported: {known}")
    _check_rope(config.rope, config.rope.width(config.head_dim))


def _check_rope(rope: RopeConfig, width: int) -> None:
    if width < 2 or width % 2:
        raise ModelError(f"config.json: rotary positions need an even number of entries per head, not {width}")
    if rope.kind == "longrope":
        for name, factors in (("short_factor", rope.short_factor), ("long_factor", rope.long_factor)):
            if len(factors) != width // 2:
                raise ModelError(f"config.json: rope's {name!r} has {len(factors)} entries, but must have {width // 2}")
