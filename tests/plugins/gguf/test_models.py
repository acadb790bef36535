"""Models in GGUF files are those of transformers with the decoded weights, in every family that is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoConfig

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.gguf.container import Container, TensorPlace
from maxserve.plugins.gguf.families import family_of, keys_of
from maxserve.plugins.gguf.files import Gguf
from maxserve.plugins.gguf.model import sources_of
from maxserve.plugins.gguf.types import BY_NAME
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.ranks import assert_same_texts, served_in_ranks, texts
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config
from tests.plugins.gguf.conftest import Writer

# Rows of 256 inputs, which is what the larger blocks have.
SIZES: Mapping[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    model_class: str
    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


LATENT = {
    "q_lora_rank": 64,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 2,
}
DEEPSEEK_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LATENT_KEYS = {
    "attention.kv_lora_rank": 256,
    "attention.q_lora_rank": 64,
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 64,
    "rope.dimension_count": 16,
    "leading_dense_block_count": 1,
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_shared_count": 2,
    "expert_feed_forward_length": 256,
}
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA = {"attention.sliding_window": 16, "attention.key_length": 16}
FAMILIES = [
    Family(model_class="LlamaForCausalLM", architecture="llama"),
    Family(model_class="LlamaForCausalLM", architecture="llama", config={"tie_word_embeddings": True}),
    Family(model_class="Qwen2ForCausalLM", architecture="qwen2"),
    Family(model_class="Qwen3ForCausalLM", architecture="qwen3"),
    Family(
        model_class="MixtralForCausalLM",
        architecture="llama",
        metadata={"expert_count": 8, "expert_used_count": 2},
    ),
    Family(
        model_class="Qwen3MoeForCausalLM",
        architecture="qwen3moe",
        config={"moe_intermediate_size": 256, "norm_topk_prob": True},
        metadata={"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 256},
    ),
    Family(
        model_class="Gemma2ForCausalLM",
        architecture="gemma2",
        config={"query_pre_attn_scalar": 16},
        metadata={**GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    Family(
        model_class="Gemma3ForCausalLM",
        architecture="gemma3",
        config={"query_pre_attn_scalar": 16, "num_hidden_layers": 7, "layer_types": [*[SLIDING] * 5, FULL, SLIDING]},
        metadata={**GEMMA, "rope.freq_base": 1e6},
    ),
    Family(model_class="Phi3ForCausalLM", architecture="phi3", config={"sliding_window": None}),
    Family(
        model_class="Phi3ForCausalLM",
        architecture="phi3",
        config={"sliding_window": 16},
        metadata={"attention.sliding_window": 16},
    ),
    Family(
        model_class="GraniteForCausalLM",
        architecture="granite",
        config={"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 3.0},
        metadata={"attention.scale": 0.25, "residual_scale": 0.5, "embedding_scale": 2.0, "logit_scale": 3.0},
    ),
    Family(
        model_class="DeepseekV2ForCausalLM",
        architecture="deepseek2",
        config={**LATENT, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        metadata={**LATENT_KEYS, "expert_group_count": 4, "expert_group_used_count": 2},
    ),
    Family(
        model_class="DeepseekV3ForCausalLM",
        architecture="deepseek2",
        config={**LATENT, "n_group": 4, "topk_group": 2, "head_dim": 16, "rope_parameters": DEEPSEEK_YARN},
        metadata={
            **LATENT_KEYS,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
    ),
    Family(
        model_class="Llama4ForCausalLM",
        architecture="llama4",
        config={
            "num_hidden_layers": 4,
            "layer_types": [*["chunked_attention"] * 3, FULL],
            "no_rope_layers": [1, 1, 1, 0],
            "attention_chunk_size": 8192,
            "floor_scale": 8192,
            "interleave_moe_layer_step": 2,
            "moe_layers": [1, 3],
            "intermediate_size": 256,
            "intermediate_size_mlp": 512,
        },
        metadata={
            "expert_count": 8,
            "expert_used_count": 1,
            "expert_feed_forward_length": 256,
            "feed_forward_length": 512,
            "interleave_moe_layer_step": 2,
        },
    ),
    Family(model_class="OlmoForCausalLM", architecture="olmo"),
    Family(model_class="Olmo2ForCausalLM", architecture="olmo2"),
    Family(
        model_class="Exaone4ForCausalLM",
        architecture="exaone4",
        config={"num_hidden_layers": 5, "layer_types": [*[SLIDING] * 3, FULL, SLIDING]},
        metadata={"attention.sliding_window": 16},
    ),
    Family(
        model_class="GptOssForCausalLM",
        architecture="gpt-oss",
        metadata={
            "expert_count": 8,
            "expert_used_count": 2,
            "expert_feed_forward_length": 512,
            "attention.sliding_window": 16,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
]


def name_of(family: Any) -> str:
    return "-".join(
        [family.architecture, family.model_class, *(["tied"] if "tie_word_embeddings" in family.config else [])]
    )


def plain(name: str) -> Type:
    return Type.F32


def mixed(name: str) -> Type:
    """Several types in one model, and in one fused projection, as the files of today have them."""
    types = {"attn_v": Type.Q6_K, "ffn_down": Type.Q5_0, "token_embd": Type.Q8_0, "output": Type.Q6_K}
    part = name.split(".")[-2]
    if part in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        return Type.MXFP4
    return types.get(part, Type.F16 if part == "ffn_gate_inp" else Type.Q4_K)


def tiny(family: Family) -> Any:
    config = tiny_config(family.model_class, architectures=[family.model_class], **{**SIZES, **family.config})
    return randomised(ArchitectureChecks.reference(config))


def serve(path: Path, **options: Any) -> Served:
    return Served(path, PluginHost.discover(PluginOptions(autoload=False), strict=True), **options)


PROMPT = torch.randint(2, 90, (40,), generator=torch.Generator().manual_seed(1)).tolist()


def compare(served: Served, reference: Any) -> None:
    expected, answer = continuation(reference, PROMPT, 12), served.answers([PROMPT], 12)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_plain_file_is_the_model(family: Family, write_gguf: Callable[..., None], tmp_path: Path) -> None:
    reference = tiny(family)
    write_gguf(tmp_path / "tiny.gguf", reference, family.architecture, plain, family.metadata)
    compare(serve(tmp_path / "tiny.gguf"), reference)


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_transformers_takes_the_config(family: Family, write_gguf: Callable[..., None], tmp_path: Path) -> None:
    """Which checks the types of its values; a model without layers of our own is built of it."""
    reference, path = tiny(family), tmp_path / "tiny.gguf"
    write_gguf(path, reference, family.architecture, mixed, family.metadata)
    given = json.loads(Gguf().model_files(str(path))["config.json"])
    found = AutoConfig.for_model(given.pop("model_type"), **given)
    assert found.num_hidden_layers == reference.config.num_hidden_layers


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_quantized_file_is_unpacked(family: Family, write_gguf: Callable[..., None], tmp_path: Path) -> None:
    """Where no linear method takes codes, weights are rounded to bfloat16."""
    reference = tiny(family)
    write_gguf(tmp_path / "tiny.gguf", reference, family.architecture, mixed, family.metadata, torch.bfloat16)
    compare(serve(tmp_path / "tiny.gguf", use_subgraphs=False), reference)


@pytest.mark.compiler
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_quantized_file_is_the_model(family: Family, write_gguf: Callable[..., None], tmp_path: Path) -> None:
    """Kernels multiply by the codes as they are: nothing is rounded."""
    reference = tiny(family)
    write_gguf(tmp_path / "tiny.gguf", reference, family.architecture, mixed, family.metadata)
    compare(serve(tmp_path / "tiny.gguf"), reference)


@pytest.mark.compiler
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_two_ranks_share_a_quantized_file(family: Family, write_gguf: Callable[..., None], tmp_path: Path) -> None:
    """Also queries and keys whose rows lie otherwise in the file."""
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    if not host.architectures.get(family.model_class).component.tensor_parallel:
        pytest.skip("its architecture does not declare that ranks can share it")
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny(family), family.architecture, mixed, family.metadata)
    assert_same_texts(served_in_ranks(path, host, 2, texts), texts(serve(path)))


def partly(name: str) -> Type:
    """Parts of fused projections that are no blocks, one in each of the two usual types."""
    return {"attn_q": Type.F16, "ffn_up": Type.F32}.get(name.split(".")[-2], mixed(name))


@pytest.mark.compiler
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "Gemma3ForCausalLM"])
def test_parts_that_are_plain_stay_so_beside_codes(
    model_class: str, compiled: bool, write_gguf: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And leave the others packed; where no linear method takes codes, they are as exact as they are stored."""
    family = next(each for each in FAMILIES if each.model_class == model_class)
    reference, path = tiny(family), tmp_path / "tiny.gguf"
    unpacked = torch.float32 if compiled else torch.bfloat16
    write_gguf(path, reference, family.architecture, partly, family.metadata, unpacked)
    with caplog.at_level("INFO"):
        served = serve(path, use_subgraphs=compiled)
    assert ("are unpacked to" in caplog.text) is not compiled
    if compiled:
        compare(served, reference)
    else:
        assert served.answers([PROMPT], 2)[0].error is None


OLD = {
    "attention.key_length": 48,
    "attention.value_length": 64,
    **{key: value for key, value in LATENT_KEYS.items() if not key.endswith("_mla")},
}


def test_keys_and_values_of_all_heads_may_be_one_tensor(write_gguf: Callable[..., None], tmp_path: Path) -> None:
    """As files of DeepSeek had them before llama.cpp computed with latent vectors."""
    for types in (plain, mixed):
        reference = tiny(Family(model_class="DeepseekV2ForCausalLM", architecture="deepseek2", config=LATENT))
        write_gguf(tmp_path / "tiny.gguf", reference, "deepseek2", types, OLD)
        compare(serve(tmp_path / "tiny.gguf"), reference)


def test_layers_that_predict_further_tokens_are_drafted_with_where_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family = next(each for each in FAMILIES if each.model_class == "DeepseekV3ForCausalLM")
    reference = tiny(family)
    config, path = reference.config, tmp_path / "tiny.gguf"
    reference.model.layers.append(randomised(type(reference.model.layers[1])(config, 2)))
    config.num_hidden_layers = 3
    writer = Writer(path, reference, "deepseek2", plain, torch.float32)
    for norm in ("enorm", "hnorm", "shared_head_norm"):
        writer.tensor(f"blk.2.nextn.{norm}.weight", torch.ones(config.hidden_size))
    writer.tensor("blk.2.nextn.eh_proj.weight", torch.randn(config.hidden_size, 2 * config.hidden_size))
    for table in ("embed_tokens", "shared_head_head"):
        writer.tensor(f"blk.2.nextn.{table}.weight", torch.zeros(config.vocab_size, config.hidden_size))
    writer.write({**family.metadata, "nextn_predict_layers": 1})
    del reference.model.layers[2]
    config.num_hidden_layers = 2
    with caplog.at_level("INFO"):
        compare(serve(path), reference)
        assert "the checkpoint has layers that predict further tokens" in caplog.text
        assert "draft head: " not in caplog.text
        served = serve(path, speculative_method="mtp")
        compare(served, reference)
    assert "draft head: " in caplog.text
    assert served.engine.stats().draft_tokens > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_weights_norm": True}, r"deepseek2.expert_weights_norm is true, which is not read where experts are"),
        ({"attention.kv_lora_rank": "many"}, r"deepseek2.attention.kv_lora_rank is 'many'"),
    ],
)
def test_what_is_not_read_of_deepseek_is_named(
    changes: Mapping[str, Any], message: str, write_gguf: Callable[..., None], tmp_path: Path
) -> None:
    reference = tiny(Family(model_class="DeepseekV2ForCausalLM", architecture="deepseek2", config=LATENT))
    write_gguf(tmp_path / "tiny.gguf", reference, "deepseek2", plain, {**LATENT_KEYS, **changes})
    with pytest.raises(ModelError, match=message):
        serve(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("architecture", "shapes"),
    [
        ("deepseek2", {"attn_k_b.weight": (16, 48), "attn_v_b.weight": (16, 48)}),
        ("deepseek2", {"attn_k_b.weight": (4, 48, 16), "attn_v_b.weight": (4, 16, 40)}),
        ("llama4", {"ffn_down_exps.weight": (64, 32)}),
        ("llama4", {"ffn_gate_exps.weight": (64, 32), "ffn_up_exps.weight": (64, 32)}),
        ("gpt-oss", {"ffn_gate_exps.bias": (64,), "ffn_up_exps.bias": (64,)}),
        ("qwen3moe", {"ffn_gate_exps.weight": (64,)}),
        ("qwen3moe", {"ffn_gate_exps.weight": (10**8, 1, 1)}),
    ],
)
def test_stacks_of_other_shapes_are_damage(architecture: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    counts = {"expert_count": 8, "attention.head_count": 4, "attention.kv_lora_rank": 48}
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": n for key, n in counts.items()}}
    tensors = {f"blk.0.{name}": TensorPlace(BY_NAME["F32"], shape, 0, 4) for name, shape in shapes.items()}
    keys = keys_of("a.gguf", metadata)
    with pytest.raises(ModelError, match=r"^a.gguf: .*(_exps|_b)\b.*fetch the file again"):
        sources_of(Container(path="a.gguf", metadata=metadata, tensors=tensors), keys, family_of(keys))


@pytest.mark.compiler
@pytest.mark.parametrize("drafts", [False, True])
def test_memory_is_planned_for_the_codes(
    write_gguf: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture, drafts: bool
) -> None:
    """Those of the draft model, too."""
    family, file = FAMILIES[0], tmp_path / "tiny.gguf"
    write_gguf(file, tiny(family), family.architecture, mixed)
    options = {"speculative_method": "standalone", "draft_model_path": str(file)} if drafts else {}
    with caplog.at_level("INFO"):
        serve(file, **options)
    held = re.search(r"projections are held in (.*) and computed in float32", caplog.text)
    assert held is not None
    assert held[1] == "q4_k (57%), q5_0 (36%), q6_k (5%) and q8_0 (3%)"
    assert f"projections in {held[1]}" in caplog.text
    planned = re.search(r"weights +([\d.]+) (KiB|MiB)", caplog.text)
    assert planned is not None
    size = float(planned[1]) * {"KiB": 1 << 10, "MiB": 1 << 20}[planned[2]]
    assert size == pytest.approx((1 + drafts) * file.stat().st_size, rel=0.1)
