"""Families of models in GGUF files, by general.architecture: names of tensors and what the metadata leave unsaid.

Names are those of gguf-py's constants.py and tensor_mapping.py; what a file does not say is what llama.cpp's
src/models has for the family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from maxserve.interfaces.errors import ModelError

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{expert}.gate_proj",
    "ffn_up_exps": "mlp.experts.{expert}.up_proj",
    "ffn_down_exps": "mlp.experts.{expert}.down_proj",
}
# Parts whose results are normed, instead of or beside what goes in.
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_GEMMA = {**_LAYER, **_POST_NORMS, "ffn_norm": "pre_feedforward_layernorm"}
_POST_NORMED = {name: ours for name, ours in {**_LAYER, **_POST_NORMS}.items() if name not in ("attn_norm", "ffn_norm")}
_MIXTRAL = {
    **_LAYER,
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{expert}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{expert}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{expert}.w2",
}
_GPT_OSS = {
    **{name: ours for name, ours in _LAYER.items() if name not in ("ffn_norm", "ffn_gate_exps", "ffn_up_exps")},
    "post_attention_norm": "post_attention_layernorm",
    "attn_sinks": "self_attn.sinks",
    "ffn_gate_inp": "mlp.router",
}
_SHARED_EXPERTS = ("gate", "up", "down")
_DEEPSEEK = {
    **_LAYER,
    **{f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in _SHARED_EXPERTS},
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "exp_probs_b": "mlp.gate.e_score_correction_bias",
}
_LLAMA4 = {
    **{name: ours.replace("mlp.", "feed_forward.") for name, ours in _LAYER.items()},
    **{f"ffn_{part}_shexp": f"feed_forward.shared_expert.{part}_proj" for part in _SHARED_EXPERTS},
    "ffn_gate_inp": "feed_forward.router",
}
# Of a layer that predicts further tokens, after "blk.N.nextn.".
NEXT_TOKEN = {
    "eh_proj.weight": "eh_proj.weight",
    "enorm.weight": "enorm.weight",
    "hnorm.weight": "hnorm.weight",
    "embed_tokens.weight": "embed_tokens.weight",
    "shared_head_norm.weight": "shared_head.norm.weight",
    "shared_head_head.weight": "shared_head.head.weight",
}
_ENCODER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
}
_OUTER_OF_ENCODERS = {
    "token_embd.weight": "embeddings.word_embeddings.weight",
    "position_embd.weight": "embeddings.position_embeddings.weight",
    "token_types.weight": "embeddings.token_type_embeddings.weight",
    **{f"token_embd_norm.{kind}": f"embeddings.LayerNorm.{kind}" for kind in ("weight", "bias")},
    **{f"cls.{kind}": f"classifier.dense.{kind}" for kind in ("weight", "bias")},
    **{f"cls.output.{kind}": f"classifier.out_proj.{kind}" for kind in ("weight", "bias")},
}
_SIGMOID = 2  # of {a}.expert_gating_func: gguf-py, ExpertGatingFuncType


@dataclass(frozen=True, slots=True)
class Keys:
    """Metadata of a model, by key without its architecture's name in front."""

    path: str
    architecture: str
    metadata: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def number(self, key: str) -> Any:
        """ModelError where it is missing or no number; the largest of a list of equal ones."""
        value = self.get(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float):
            what = "is missing" if value is None else f"is {value!r:.80}"
            raise ModelError(
                f"{self.path}: {self.architecture}.{key} {what}; give the model's own config with --model, and this "
                "file with --weight-path"
            )
        return value

    @property
    def kv_heads(self) -> int:
        present = self.get("attention.head_count_kv") is not None
        return int(self.number("attention.head_count_kv" if present else "attention.head_count"))

    @property
    def head_dim(self) -> int:
        width = self.get("attention.key_length")
        return int(width or self.number("embedding_length") / self.number("attention.head_count"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one architecture of GGUF files becomes one of Hugging Face.

    `names` are those of a layer's tensors. `config(keys)` gives what config.json has beside what all families have.
    `pairs`: rows of queries and keys were put side by side, as ggml's "normal" rope takes them. `offset`: the file's
    norms are larger by one. `alternating`: gate and up of experts are one weight whose rows lie in turns. `transposed`:
    experts that are not packed are [experts, inputs, outputs] in one tensor, with gate and up one after the other.

    `metadata(config)` is the other way: keys beside those of all families, of the content of config.json with all of
    its defaults.

    `encoder`: tokens see their whole text, and config.json is BERT's. `outer` are the tensors of no layer, `layers` is
    what stands in front of a layer's number.
    """

    model_class: str
    model_type: str
    names: Mapping[str, str] = field(default_factory=lambda: _LAYER)
    config: Callable[[Keys], Mapping[str, Any]] = lambda keys: {}
    metadata: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: {}
    pairs: bool = False
    offset: bool = False
    alternating: bool = False
    transposed: bool = False
    encoder: bool = False
    outer: Mapping[str, str] = field(default_factory=lambda: OUTER)
    layers: str = "model.layers."


def _window(keys: Keys, pattern: int) -> dict[str, Any]:
    """Which layers have a window, by the file or by the family's own `pattern`: every so many layers one has none."""
    window, layers = keys.get("attention.sliding_window"), keys.number("block_count")
    if not window:
        return {"sliding_window": None}
    given = keys.get("attention.sliding_window_pattern", pattern)
    sliding = given if isinstance(given, list) else [(i + 1) % int(given) != 0 for i in range(layers)]
    kinds = ["sliding_attention" if each else "full_attention" for each in sliding]
    return {"sliding_window": int(window), "layer_types": kinds}


def _window_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    sliding = [kind == "sliding_attention" for kind in config.get("layer_types") or ()]
    if not any(sliding):
        return {}
    return {"attention.sliding_window": config["sliding_window"], "attention.sliding_window_pattern": sliding}


def _mixture(keys: Keys) -> dict[str, Any]:
    return {
        "num_local_experts": keys.number("expert_count"),
        "num_experts": keys.number("expert_count"),
        "num_experts_per_tok": keys.number("expert_used_count"),
    }


def _mixture_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    count = config.get("num_local_experts") or config["num_experts"]
    return {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}


def _qwen3moe(keys: Keys) -> dict[str, Any]:
    own = {"moe_intermediate_size": keys.number("expert_feed_forward_length"), "norm_topk_prob": True}
    return {**_mixture(keys), **own}


def _qwen3moe_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_mixture_metadata(config), "expert_feed_forward_length": config["moe_intermediate_size"]}


def _gpt_oss(keys: Keys) -> dict[str, Any]:
    size = keys.number("expert_feed_forward_length")
    return {**_mixture(keys), **_window(keys, 2), "intermediate_size": size, "attention_bias": True}


def _gpt_oss_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    own = {"expert_feed_forward_length": config["intermediate_size"]}
    return {**_mixture_metadata(config), **_window_metadata(config), **own}


def _gemma2(keys: Keys) -> dict[str, Any]:
    return {
        **_window(keys, 2),
        "attn_logit_softcapping": keys.get("attn_logit_softcapping"),
        "final_logit_softcapping": keys.get("final_logit_softcapping"),
        "query_pre_attn_scalar": _query_scale(keys, 46),
    }


def _gemma3(keys: Keys) -> dict[str, Any]:
    return {
        **_window(keys, 6),
        "rope_local_base_freq": keys.get("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": keys.get("final_logit_softcapping"),
        "query_pre_attn_scalar": _query_scale(keys, 62),
    }


def _gemma_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    return {**_window_metadata(config), **{key: float(config[key]) for key in caps if config.get(key)}}


def _query_scale(keys: Keys, layers_of_27b: int) -> int:
    """The 27B models, which are known by their number of layers, take the width of a head before it is projected."""
    if keys.number("block_count") == layers_of_27b:
        return int(keys.number("embedding_length") // keys.number("attention.head_count"))
    return int(keys.head_dim)


def _granite(keys: Keys) -> dict[str, Any]:
    return {
        "embedding_multiplier": keys.get("embedding_scale", 1.0),
        "residual_multiplier": keys.get("residual_scale", 1.0),
        "attention_multiplier": keys.number("attention.scale"),
        "logits_scaling": keys.get("logit_scale", 1.0),
    }


def _granite_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "attention.scale": float(config["attention_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
    }


def _exaone(keys: Keys) -> dict[str, Any]:
    eps = keys.get("attention.layer_norm_rms_epsilon", 1e-5)
    return {"num_layers": keys.number("block_count"), "layer_norm_epsilon": eps}


def _olmo(keys: Keys) -> dict[str, Any]:
    return {"clip_qkv": keys.get("attention.clamp_kqv")}


def _olmo_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    clip = config.get("clip_qkv")
    own = {} if clip is None else {"attention.clamp_kqv": float(clip)}
    return {"attention.layer_norm_epsilon": 1e-5, **own}


def _phi3(keys: Keys) -> dict[str, Any]:
    original = keys.get("rope.scaling.original_context_length", keys.number("context_length"))
    share = keys.get("rope.dimension_count", 0) * keys.number("attention.head_count") / keys.number("embedding_length")
    window = keys.get("attention.sliding_window")  # of all layers; 0: none, as one that no text is longer than
    sliding = keys.number("attention.sliding_window") if window and window < keys.number("context_length") else None
    own = {"original_max_position_embeddings": original, "sliding_window": sliding}
    return {**own, "partial_rotary_factor": share} if share else own


def _phi3_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rope.scaling.original_context_length": config["original_max_position_embeddings"],
        "attention.sliding_window": config.get("sliding_window") or 0,
    }


def _deepseek(keys: Keys) -> dict[str, Any]:
    heads, rope = keys.number("attention.head_count"), keys.number("rope.dimension_count")
    split = keys.get("attention.key_length_mla") is not None  # files of before have keys and values of all heads
    own = {
        "num_key_value_heads": heads,
        "kv_lora_rank": keys.number("attention.kv_lora_rank"),
        "q_lora_rank": keys.get("attention.q_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": keys.number("attention.key_length_mla" if split else "attention.key_length") - rope,
        "v_head_dim": keys.number("attention.value_length_mla" if split else "attention.value_length"),
        "first_k_dense_replace": keys.get("leading_dense_block_count", 0),
        "n_routed_experts": keys.number("expert_count"),
        "num_experts_per_tok": keys.number("expert_used_count"),
        "n_shared_experts": keys.number("expert_shared_count"),
        "moe_intermediate_size": keys.number("expert_feed_forward_length"),
        "routed_scaling_factor": keys.get("expert_weights_scale", 1.0),
        "num_nextn_predict_layers": keys.get("nextn_predict_layers", 0),
    }
    return own | _expert_groups(keys)


def _expert_groups(keys: Keys) -> dict[str, Any]:
    """How experts are chosen: of all, or of some groups of them."""
    count, used = keys.get("expert_group_count", 1), keys.get("expert_group_used_count", 1)
    groups = {"n_group": count, "topk_group": used}
    normalised = bool(keys.get("expert_weights_norm", False))
    if keys.get("expert_gating_func") == _SIGMOID:
        return {**groups, "norm_topk_prob": normalised}
    if normalised:
        raise ModelError(
            f"{keys.path}: {keys.architecture}.expert_weights_norm is true, which is not read where experts are chosen "
            "by softmax; use a checkpoint in safetensors"
        )
    return {**groups, "topk_method": "group_limited_greedy" if count > 1 else "greedy"}


def _deepseek_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    own: dict[str, Any] = {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + rope,
        "attention.value_length_mla": config["v_head_dim"],
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": rope,
        "leading_dense_block_count": config.get("first_k_dense_replace") or 0,
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_weights_scale": float(config["routed_scaling_factor"]),
    }
    if config.get("q_lora_rank") is not None:
        own["attention.q_lora_rank"] = config["q_lora_rank"]
    if config.get("topk_method") != "greedy":
        own |= {"expert_group_count": config["n_group"], "expert_group_used_count": config["topk_group"]}
    scale = (config.get("rope_parameters") or {}).get("mscale_all_dim")
    return own if scale is None else {**own, "rope.scaling.yarn_log_multiplier": 0.1 * scale}


def _deepseek3_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    own = {"expert_gating_func": _SIGMOID, "expert_weights_norm": bool(config.get("norm_topk_prob", True))}
    return {**_deepseek_metadata(config), **own}


def _llama4_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_mixture_metadata(config),
        "expert_feed_forward_length": config["intermediate_size"],
        "feed_forward_length": config["intermediate_size_mlp"],
        "interleave_moe_layer_step": config["interleave_moe_layer_step"],
    }


def _llama4(keys: Keys) -> dict[str, Any]:
    """llama.cpp has one layer of four without a rope, and chunks of 8192 tokens, unless the window is 0."""
    layers = keys.number("block_count")
    unlimited = keys.get("attention.sliding_window") == 0
    return {
        "num_local_experts": keys.number("expert_count"),
        "num_experts_per_tok": keys.number("expert_used_count"),
        "intermediate_size": keys.number("expert_feed_forward_length"),
        "intermediate_size_mlp": keys.number("feed_forward_length"),
        "interleave_moe_layer_step": keys.number("interleave_moe_layer_step"),
        "no_rope_layers": [1 if unlimited or (i + 1) % 4 else 0 for i in range(layers)],
        "layer_types": [
            "full_attention" if unlimited or (i + 1) % 4 == 0 else "chunked_attention" for i in range(layers)
        ],
        "attention_chunk_size": 8192,
        "use_qk_norm": keys.number("expert_count") != 128,  # Maverick, by which llama.cpp knows it
        "attn_temperature_tuning": not unlimited,
    }


_LLAMA = Family(model_class="LlamaForCausalLM", model_type="llama", pairs=True)
_MIXTRAL_FAMILY = replace(
    _LLAMA,
    model_class="MixtralForCausalLM",
    model_type="mixtral",
    names=_MIXTRAL,
    config=_mixture,
    metadata=_mixture_metadata,
)
_OLMO2 = Family(model_class="Olmo2ForCausalLM", model_type="olmo2", names=_POST_NORMED)
_OLMO3 = replace(
    _OLMO2,
    model_class="Olmo3ForCausalLM",
    model_type="olmo3",
    config=lambda keys: _window(keys, 4),
    metadata=_window_metadata,
)
_DEEPSEEK2 = Family(
    model_class="DeepseekV2ForCausalLM",
    model_type="deepseek_v2",
    names=_DEEPSEEK,
    config=_deepseek,
    metadata=_deepseek_metadata,
)
_DEEPSEEK3 = replace(
    _DEEPSEEK2, model_class="DeepseekV3ForCausalLM", model_type="deepseek_v3", metadata=_deepseek3_metadata
)
_FAMILIES = {
    "llama": _LLAMA,
    "bert": Family(
        model_class="BertModel",
        model_type="bert",
        names=_ENCODER,
        encoder=True,
        outer=_OUTER_OF_ENCODERS,
        layers="encoder.layer.",
    ),
    "llama4": Family(
        model_class="Llama4ForCausalLM",
        model_type="llama4_text",
        names=_LLAMA4,
        config=_llama4,
        metadata=_llama4_metadata,
        transposed=True,
    ),
    "deepseek2": _DEEPSEEK2,
    "qwen2": Family(model_class="Qwen2ForCausalLM", model_type="qwen2"),
    "qwen3": Family(model_class="Qwen3ForCausalLM", model_type="qwen3"),
    "qwen3moe": Family(
        model_class="Qwen3MoeForCausalLM", model_type="qwen3_moe", config=_qwen3moe, metadata=_qwen3moe_metadata
    ),
    "gemma2": Family(
        model_class="Gemma2ForCausalLM",
        model_type="gemma2",
        names=_GEMMA,
        config=_gemma2,
        metadata=_gemma_metadata,
        offset=True,
    ),
    "gemma3": Family(
        model_class="Gemma3ForCausalLM",
        model_type="gemma3_text",
        names=_GEMMA,
        config=_gemma3,
        metadata=_gemma_metadata,
        offset=True,
    ),
    "phi3": Family(
        model_class="Phi3ForCausalLM",
        model_type="phi3",
        names={**_LAYER, "ffn_up": "mlp.gate_up_proj"},
        config=_phi3,
        metadata=_phi3_metadata,
    ),
    "granite": Family(
        model_class="GraniteForCausalLM",
        model_type="granite",
        config=_granite,
        metadata=_granite_metadata,
        pairs=True,
    ),
    "olmo": Family(model_class="OlmoForCausalLM", model_type="olmo", config=_olmo, metadata=_olmo_metadata, pairs=True),
    "olmo2": _OLMO2,
    "exaone": Family(model_class="ExaoneForCausalLM", model_type="exaone", config=_exaone),
    "exaone4": Family(
        model_class="Exaone4ForCausalLM",
        model_type="exaone4",
        names=_POST_NORMED,
        config=lambda keys: _window(keys, 4),
        metadata=_window_metadata,
    ),
    "gpt-oss": Family(
        model_class="GptOssForCausalLM",
        model_type="gpt_oss",
        names=_GPT_OSS,
        config=_gpt_oss,
        metadata=_gpt_oss_metadata,
        alternating=True,
    ),
}
# What a class of models is written as; Mistral is Llama where it has no windows.
_WRITTEN = {
    **{each.model_class: (architecture, each) for architecture, each in _FAMILIES.items() if not each.encoder},
    "DeepseekV3ForCausalLM": ("deepseek2", _DEEPSEEK3),
    "MistralForCausalLM": ("llama", _LLAMA),
    "MixtralForCausalLM": ("llama", _MIXTRAL_FAMILY),
    "Olmo3ForCausalLM": ("olmo2", _OLMO3),
}


def family_of(keys: Keys) -> Family:
    """ModelError naming the families that are read where this one is not."""
    found = _FAMILIES.get(keys.architecture)
    if found is None:
        raise ModelError(
            f"{keys.path}: models of general.architecture {keys.architecture!r:.80} are not read from GGUF files; read "
            f"are {', '.join(sorted(_FAMILIES))}; use a checkpoint in safetensors"
        )
    if keys.architecture == "llama" and keys.get("expert_count"):
        return _MIXTRAL_FAMILY
    if keys.architecture == "olmo2" and keys.get("attention.sliding_window"):
        return _OLMO3
    if keys.architecture == "deepseek2" and keys.get("expert_gating_func") == _SIGMOID:
        return _DEEPSEEK3
    return found


def written_family(config: Mapping[str, Any], ref: str) -> tuple[str, Family]:
    """The general.architecture, and its family, of models of config.json's class; ModelError naming those there are."""
    classes = config.get("architectures") or ["an unknown class"]
    for name in classes:
        if name in _WRITTEN:
            return _WRITTEN[name]
    raise ModelError(
        f"{ref}: models of {', '.join(map(str, classes))} are not written as GGUF files; written are "
        f"{', '.join(sorted(_WRITTEN))}"
    )


def keys_of(path: str, metadata: Mapping[str, Any]) -> Keys:
    """ModelError where the file is of no model."""
    kind, architecture = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if kind != "model" or not isinstance(architecture, str):
        what = f"is of general.type {kind!r:.80}" if kind != "model" else "names no general.architecture"
        raise ModelError(f"{path} {what}, no model; give the file of the model")
    return Keys(path=path, architecture=architecture, metadata=metadata)


def layer_name(family: Family, part: str, kind: str) -> str | None:
    """The name in a layer of what is called part.kind after "blk.N" in a GGUF file; None: not known."""
    ours = family.names.get(part)
    if ours is None or kind not in ("weight", "bias"):
        return None
    return ours if ours.endswith(("sinks", "_bias")) else f"{ours}.{kind}"
