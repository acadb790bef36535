"""What config.json says about a decoder. Read without torch and without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.rope_config import RopeConfig, read_rope
from maxserve.architectures.layers.rotary_order import rotary_changes
from maxserve.interfaces.architecture import TensorChange
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import ModelError

__all__ = ["ACTIVATIONS", "ModelConfig", "RopeConfig", "from_transformers", "read_fields", "windows_of"]

ACTIVATIONS = frozenset({"silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and choices of a decoder. `dim` is the hidden size, `ffn_dim` that of the feed-forward part.

    `windows` holds, per layer, how many positions a token sees (its own included), None for all; empty: all layers
    see everything. `ropes` holds, per layer, how positions rotate its heads, None for not at all; empty: `rope` rotates
    those of all layers. `max_length` is how many positions the model was made for, whatever length is served.
    `scale` and `softcap` are those of attention scores, as CacheLayer has them. A family that needs more derives from
    this class.
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
    ropes: tuple[RopeConfig | None, ...] = ()
    windows: tuple[int | None, ...] = ()
    scale: float | None = None
    softcap: float | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        return tuple(
            CacheLayer(
                kv_heads=self.kv_heads, head_dim=self.head_dim, window=window, scale=self.scale, softcap=self.softcap
            )
            for window in self.windows or (None,) * self.layers
        )

    @property
    def layer_ropes(self) -> tuple[RopeConfig | None, ...]:
        """How positions rotate the heads of each layer, None for not at all."""
        return self.ropes or (self.rope,) * self.layers

    @property
    def rotary_dim(self) -> int:
        """The width that rope rotates: a whole head, except where heads have a part of their own for it."""
        return self.head_dim

    @property
    def interleaved(self) -> bool:
        """Whether rope is applied to pairs that lie side by side, as all checkpoints of the family have them."""
        return False

    def rotary_changes(self, rope_type: str, architecture: str) -> tuple[TensorChange, ...]:
        """What `--rope-type` asks for."""
        return rotary_changes(
            rope_type,
            architecture,
            kind=self.rope.kind,
            head_dim=self.head_dim,
            width=self.rope.width(self.head_dim),
            interleaved=self.interleaved,
        )

    @property
    def prompt_regimes(self) -> tuple[int, ...]:
        """The prompt lengths above which a `longrope` rotates all tokens by its long factors."""
        found = {rope.original_length for rope in self.layer_ropes if rope is not None and rope.kind == "longrope"}
        return tuple(sorted(length for length in found if length < self.max_length))


def from_transformers(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json; missing keys have the defaults of transformers' LlamaConfig.

    Both spellings are read: `rope_theta` with `rope_scaling`, and `rope_parameters`. A family with other defaults
    fills them in before it calls this. ModelError says what is missing or not known.
    """
    return ModelConfig(**read_fields(raw, partial_rotary=True))


def read_fields(raw: Mapping[str, Any], *, partial_rotary: bool = False, **own: Any) -> dict[str, Any]:
    """The fields of a ModelConfig or of a class that derives from it; `own` are those that the family reads by itself.

    Without `partial_rotary` the family rotates whole heads, whatever `partial_rotary_factor` says.
    """
    dim, heads = size(raw, "hidden_size"), size(raw, "num_attention_heads")
    attention_bias = bool(raw.get("attention_bias", False))
    fields = {
        "vocab_size": size(raw, "vocab_size"),
        "dim": dim,
        "layers": size(raw, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": size(raw, "num_key_value_heads", heads),
        "head_dim": size(raw, "head_dim", 0) or _divided(dim, heads),
        "ffn_dim": size(raw, "intermediate_size"),
        "max_length": size(raw, "max_position_embeddings", 2048),
        "eps": number(raw, "rms_norm_eps", 1e-6),
        "activation": raw.get("hidden_act", "silu"),
        "attention_bias": attention_bias,
        "o_bias": attention_bias,
        "mlp_bias": bool(raw.get("mlp_bias", False)),
        "tied": bool(raw.get("tie_word_embeddings", False)),
        "eos_token_ids": _ids(raw.get("eos_token_id", 2)),
        **own,
    }
    if "rope" not in own:
        fields["rope"] = read_rope(raw, fields["max_length"], partial=partial_rotary)
    if "windows" not in own:
        fields["windows"] = _windows(raw, fields["layers"])
    return fields


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
    return windows_of(kinds, window, layers)


def windows_of(kinds: Sequence[str], window: int | None, layers: int) -> tuple[int | None, ...]:
    """Per layer the `window`, or None where its kind is not sliding_attention. Kinds beyond `layers` are left over."""
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


def _check(config: ModelConfig) -> None:
    if config.heads % config.kv_heads:
        raise ModelError(
            f"config.json: num_attention_heads {config.heads} is no multiple of num_key_value_heads {config.kv_heads}"
        )
    if config.windows and len(config.windows) != config.layers:
        raise ModelError(f"config: {len(config.windows)} windows are given for {config.layers} layers")
    if config.ropes and len(config.ropes) != config.layers:
        raise ModelError(f"config: {len(config.ropes)} ropes are given for {config.layers} layers")
    if config.activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ModelError(f"config.json: activation {config.activation!r} is not supported; supported: {known}")
    for rope in filter(None, config.layer_ropes):
        rope.check(config.rotary_dim)
