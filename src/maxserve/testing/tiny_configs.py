"""Tiny configs of families. Configs of transformers, shrunk key by key.

A config class starts with the sizes of a published model. Every size that is known here becomes tiny, layers are left
out as long as one of each sort stays, and whatever else a family has (soft caps, windows, sorts of layers, experts)
keeps its default. So a test needs no list of families: the name of a model class is enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeGuard

VOCAB = 96
LAYERS = 3
EXPERTS = 8

# What a size becomes, by the names that config classes give it; only ever smaller. The first that matches counts.
SIZES: tuple[tuple[str, int], ...] = (
    (r"(.*_)?vocab_size(_.*)?", VOCAB),
    (r".*hidden_size_per_layer_input", 16),
    (r"hidden_size|n_embd|n_embed|d_model|embed_dim|word_embed_proj_dim|out_hidden_size|projection_dim|dim", 64),
    (r"num_attention_heads|num_heads|n_heads?|(en|de)coder_attention_heads|linear_num_value_heads", 4),
    (r"num_key_value_heads|num_kv_heads|n_head_kv|multi_query_group_num|linear_num_key_heads", 2),
    (r"qk_rope_head_dim|rotary_dim|rotary_ndims|index_head_dim", 8),
    (r"(.*_)?(head_dim|head_size)|kv_channels", 16),
    (r"q_lora_rank", 24),
    (r"(.*_)?lora_rank", 32),
    (r"moe_(.*_)?intermediate_size|shared_(.*_)?intermediate_size|moe_ffn_hidden_size", 32),
    (r"(.*_)?intermediate_size(_.*)?|n_inner|(.*_)?ffn_dim|d_ff|ffn_hidden_size|ffn_config_hidden_size", 96),
    (r"num_experts_per_tok(en)?|moe_(topk|top_k|k|num_active_primary_experts)|num_experts_per_topk", 2),
    (r"(moe_)?num_(local_|routed_)?experts|n_routed_experts|moe_num_primary_experts|num_shared_expert_slots", EXPERTS),
    (r"index_topk", 8),
    (r"n_group", 4),
    (r"topk_group", 2),
    (r"n_shared_experts|num_shared_experts|first_k_dense_replace|max_window_layers|moe_layer_start_index", 1),
    (r"original_max_position_embeddings|model_max_length", 64),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|max_seq_length|seq_length", 256),
    (r"sliding_window(_size)?|attention_chunk_size|attention_window_size|window_size|floor_scale", 16),
    (r"mamba_(n_heads|num_heads)", 4),
    (r"(mamba_)?d_state|(mamba_|ssm_)?state_size|mamba_chunk_size|chunk_size", 16),
    (r"image_size", 28),
    (r"patch_size", 14),
    (r"depth", 2),
)
# Sizes that some classes leave open although their models cannot do without.
OPEN: Mapping[str, int] = {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "n_routed_experts": EXPERTS,
    "moe_intermediate_size": 32,
    "moe_topk": 2,
    "n_shared_experts": 1,
}
LAYER_COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers")

# Facts about transformers' classes that no rule can see, by their `model_type`: what is needed to build one, or for its
# numbers to mean something. Granite's classes do not scale scores by default, as no checkpoint does: float32 itself is
# more than 1e-4 away from float64 then.
_SCALED = {"attention_multiplier": 0.25}
FACTS: Mapping[str, Mapping[str, Any]] = {
    "granite": _SCALED,
    "granitemoe": _SCALED,
    "granitemoehybrid": _SCALED,
    "granitemoeshared": _SCALED,
}


def model_class(name: str) -> Any:
    """transformers' model class of that name; LookupError where there is none."""
    import transformers

    found = getattr(transformers, name, None)
    if found is None or getattr(found, "config_class", None) is None:
        raise LookupError(f"transformers {transformers.__version__} has no model class {name!r}")
    return found


def tiny_config(source: str | type[Any], **changes: Any) -> Any:
    """A tiny config for `source`, the name of a model class of transformers, or a config class.

    `changes` are set as they are, after everything has shrunk: what the shrinking cannot know, and what a test is
    about. LookupError when there is no class of that name.
    """
    config_class = model_class(source).config_class if isinstance(source, str) else source
    config = config_class()
    shrunk = _Shrunk(config.to_dict(), _parts(config))
    facts = FACTS.get(config_class.model_type, {})
    return config_class(**{**shrunk.values(), "dtype": "float32", **facts, **changes})


def _parts(config: Any) -> dict[str, Any]:
    """The configs inside of one, of towers and text models."""
    from transformers import PreTrainedConfig

    return {name: value for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)}


@dataclass(slots=True)
class _Shrunk:
    """The content of one config on its way to a tiny one."""

    content: Mapping[str, Any]
    parts: Mapping[str, Any]
    tokens: int = VOCAB
    changed: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """What to make the tiny config of: the keys that shrank."""
        for key, value in self.content.items():
            if key in self.parts:
                self.changed[key] = tiny_config(type(self.parts[key]))
            elif key == "rope_parameters" and isinstance(value, Mapping):
                self.changed[key] = _tiny_rope(value)
            elif "token_id" in key or key.endswith("_token_index"):
                self.changed[key] = self._token(value)
            elif _is_size(value):
                self._size(key, value)
        self._layers()
        self._relations()
        return self.changed

    def _size(self, key: str, value: int) -> None:
        tiny = _tiny_size(key, value)
        if tiny is not None and tiny != value:
            self.changed[key] = tiny

    def _token(self, value: Any) -> Any:
        """A token's id within the tiny vocabulary; special ones stay apart from each other."""
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [self._token(each) for each in value]
        if not _is_size(value) or value < VOCAB:
            return value
        self.tokens -= 1
        return self.tokens

    def _layers(self) -> None:
        """Leaves layers out, and their entries in every list that has one per layer."""
        count = next((key for key in LAYER_COUNTS if _is_size(self.content.get(key))), None)
        if count is None:
            return
        layers = self.content[count]
        lists = {key: value for key, value in self.content.items() if isinstance(value, list) and value}
        per_layer = {key: value for key, value in lists.items() if len(value) == layers and not _are_numbers(value)}
        kept = _kept_layers(layers, list(per_layer.values()))
        self.changed.update({key: len(kept) for key in LAYER_COUNTS if _is_size(self.content.get(key))})
        self.changed.update({key: [value[i] for i in kept] for key, value in per_layer.items()})
        numbers = {key: value for key, value in lists.items() if _are_numbers(value)}
        self.changed.update({key: [i for i in value if i < len(kept)] for key, value in numbers.items()})

    def _relations(self) -> None:
        """What one key says of another."""
        content, changed = self.content, self.changed
        changed.update({key: tiny for key, tiny in OPEN.items() if key in content and content[key] is None})
        if "kv_lora_rank" in content and "num_key_value_heads" in changed:
            changed["num_key_value_heads"] = changed["num_attention_heads"]  # keys are made for every head
        if "qk_rope_head_dim" in content and "head_dim" in content:
            changed["head_dim"] = changed["qk_rope_head_dim"]
        if "qk_head_dim" in changed:
            changed["qk_head_dim"] = changed["qk_nope_head_dim"] + changed["qk_rope_head_dim"]


def _tiny_size(key: str, value: int) -> int | None:
    return next((min(value, tiny) for pattern, tiny in SIZES if re.fullmatch(pattern, key)), None)


def _tiny_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rope parameters, maybe one set for each sort of layer, with tiny lengths."""
    tiny: dict[str, Any] = {}
    for key, value in rope.items():
        if isinstance(value, Mapping):
            tiny[key] = _tiny_rope(value)
        else:
            small = _tiny_size(key, value) if _is_size(value) else None
            tiny[key] = value if small is None else small
    return tiny


def _kept_layers(layers: int, per_layer: Sequence[Sequence[Any]]) -> list[int]:
    """The first layer of each sort in any list, and the first ones besides until there are enough."""
    first = {values.index(value) for values in per_layer for value in values}
    others = [i for i in range(layers) if i not in first]
    return sorted([*first, *others[: max(0, LAYERS - len(first))]])[:layers]


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_numbers(values: Sequence[Any]) -> bool:
    """Whether a list holds rising numbers of layers, and so no entry for each."""
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return len(numbers) == len(values) > 1 and all(a < b for a, b in pairwise(numbers))
