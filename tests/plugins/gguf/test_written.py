"""GGUF files that `max quantize` writes hold what rounding at load makes, and are read by gguf and transformers."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.interfaces.errors import ModelError, UsageError
from maxserve.plugins.commands.quantize import Checkpoint, name_of, run
from maxserve.plugins.gguf import rounding
from maxserve.plugins.gguf.files import Gguf
from maxserve.plugins.gguf.types import BY_NAME
from maxserve.plugins.gguf.writer import NewFile, NewTensor
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config

SIZES: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "vocab_size": 330,
    "eos_token_id": 290,
}
PROMPT = torch.randint(2, 290, (40,), generator=torch.Generator().manual_seed(1)).tolist()
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    model_class: str
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + i / 8 for i in range(32)],
    "long_factor": [2.0 + i for i in range(32)],
    "original_max_position_embeddings": 64,
}
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
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 64}
FAMILIES = [
    Family(model_class="LlamaForCausalLM"),
    Family(model_class="LlamaForCausalLM", config={"tie_word_embeddings": True}, name="tied"),
    Family(
        model_class="LlamaForCausalLM",
        config={"rope_parameters": LLAMA3, "max_position_embeddings": 16384},
        name="stretched",
    ),
    Family(model_class="MistralForCausalLM", config={"sliding_window": None}),
    Family(model_class="Qwen2ForCausalLM", config={"rope_parameters": YARN}),
    Family(model_class="Qwen3ForCausalLM"),
    Family(model_class="MixtralForCausalLM"),
    Family(model_class="Qwen3MoeForCausalLM", config={"moe_intermediate_size": 256, "norm_topk_prob": True}),
    Family(model_class="Gemma2ForCausalLM", config={"query_pre_attn_scalar": 16}),
    Family(
        model_class="Gemma3ForCausalLM",
        config={"query_pre_attn_scalar": 16, "num_hidden_layers": 3, "layer_types": [SLIDING, FULL, SLIDING]},
    ),
    Family(model_class="Phi3ForCausalLM", config={"sliding_window": None}),
    Family(model_class="Phi3ForCausalLM", config={"sliding_window": 16}, name="window"),
    Family(
        model_class="Phi3ForCausalLM",
        config={"sliding_window": None, "rope_parameters": LONG, "original_max_position_embeddings": 64},
        name="long",
    ),
    Family(
        model_class="GraniteForCausalLM",
        config={"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 3.0},
    ),
    Family(model_class="OlmoForCausalLM", config={"clip_qkv": 0.5}),
    Family(model_class="Olmo2ForCausalLM"),
    Family(
        model_class="Olmo3ForCausalLM",
        config={"num_hidden_layers": 3, "layer_types": [SLIDING, FULL, SLIDING], "sliding_window": 16},
    ),
    Family(
        model_class="Exaone4ForCausalLM",
        config={"num_hidden_layers": 3, "sliding_window": 16, "layer_types": [SLIDING, FULL, SLIDING]},
    ),
    Family(model_class="GptOssForCausalLM"),
    Family(model_class="DeepseekV2ForCausalLM", config=LATENT),
    Family(
        model_class="DeepseekV2ForCausalLM",
        config={**LATENT, "q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        name="groups",
    ),
    Family(
        model_class="DeepseekV3ForCausalLM",
        config={
            **LATENT,
            "n_group": 4,
            "topk_group": 2,
            "head_dim": 16,
            "rope_parameters": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.8},
        },
    ),
    Family(
        model_class="Llama4ForCausalLM",
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
    ),
]


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def byte_level() -> Tokenizer:
    """A BPE of bytes with tokens beside it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 5, "return the world"], trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|turn|>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return tokenizer


def saved(folder: Path, family: Family, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    """Writes a checkpoint with a tokenizer into the folder; returns the model."""
    config = tiny_config(family.model_class, architectures=[family.model_class], **{**SIZES, **family.config, **sizes})
    model: Any = randomised(ArchitectureChecks.reference(config)).to(dtype)
    model.save_pretrained(folder)
    tokenizer = byte_level()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"eos_token": "<|end|>", "chat_template": "{{ messages }}", "tokenizer_class": "PreTrainedTokenizerFast"}
        )
    )
    return model


def named(family: Any) -> str:
    return "-".join([family.model_class, *([family.name] if family.name else [])])


# Of which a layout each: fused, with experts in one tensor or in many.
ROUNDED = [family for family in FAMILIES if family.model_class[:3] in ("Phi", "Gpt", "Dee")]
# Whose table is the head, too.
TIED = [family for family in FAMILIES if family.name == "tied" or family.model_class.startswith("Gemma")]


@pytest.mark.compiler
@pytest.mark.parametrize("family", ROUNDED, ids=named)
def test_what_is_written_is_served_as_what_is_rounded_while_it_is_loaded(
    family: Family, host: PluginHost, tmp_path: Path
) -> None:
    saved(tmp_path / "plain", family)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q4_k", force=False)
    expected = Served(tmp_path / "plain", host, quantization_encoding="q4_k").answers([PROMPT], 6)[0]
    answer = Served(tmp_path / "model.gguf", host).answers([PROMPT], 6)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert answer.logprobs == expected.logprobs


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_plain_weights_are_the_model_again(family: Family, host: PluginHost, tmp_path: Path) -> None:
    model = saved(tmp_path / "plain", family)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "float32", force=False)
    compare(tmp_path / "model.gguf", model, host)


def compare(file: Path, model: Any, host: PluginHost, tokens: int = 8) -> None:
    expected, answer = continuation(model, PROMPT, tokens), Served(file, host).answers([PROMPT], tokens)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4


def test_names_that_exaone_has_for_itself(host: PluginHost, tmp_path: Path) -> None:
    model = saved(tmp_path / "plain", FAMILIES[0])
    names = {
        "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.ln_f",
        "model.layers": "transformer.h",
        "self_attn.o_proj": "attn.attention.out_proj",
        "self_attn": "attn.attention",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "mlp.gate_proj": "mlp.c_fc_0",
        "mlp.up_proj": "mlp.c_fc_1",
        "mlp.down_proj": "mlp.c_proj",
    }
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    for old, new in names.items():
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    save_file(weights, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    changed(tmp_path / "plain", architectures=["ExaoneForCausalLM"], model_type="exaone")
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "float32", force=False)
    compare(tmp_path / "model.gguf", model, host)


def changed(folder: Path, **keys: Any) -> None:
    """Sets keys of the folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096}


@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM"])
def test_transformers_loads_what_is_written(model_class: str, host: PluginHost, tmp_path: Path) -> None:
    """Its reader takes the usual sizes of heads and windows, whatever a file says."""
    own: dict[str, Any] = {"Llama": {}, "Qwen3": {"head_dim": 128}}.get(model_class.removesuffix("ForCausalLM"), GEMMA)
    model = saved(tmp_path / "plain", Family(model_class=model_class, config=own))
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "float32", force=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", attn_implementation="eager")
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        assert (loaded(ids).logits - model(ids).logits).abs().max() < 1e-3


def test_gguf_reads_what_is_written(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0], torch.bfloat16)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q4_0", force=False)
    reader = GGUFReader(tmp_path / "model.gguf")
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert {name for name, type in types.items() if type == "F32"} == {
        "output_norm.weight",
        *(f"blk.{i}.{norm}.weight" for i in range(3) for norm in ("attn_norm", "ffn_norm")),
    }
    assert {name for name, type in types.items() if type == "BF16"} == {"token_embd.weight"}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    value = tensors["blk.0.attn_v.weight"]
    expected = weights["model.layers.0.self_attn.v_proj.weight"].float().numpy()
    assert (value.data == gguf.quants.quantize(expected, gguf.GGMLQuantizationType.Q4_0)).all()
    query = torch.from_numpy(
        gguf.quants.dequantize(tensors["blk.0.attn_q.weight"].data, gguf.GGMLQuantizationType.Q4_0)
    )
    heads = json.loads((tmp_path / "plain" / "config.json").read_text())["num_attention_heads"]
    rows = weights["model.layers.0.self_attn.q_proj.weight"].float().view(heads, 2, -1, 256).transpose(1, 2)
    assert (query - rows.reshape(query.shape)).abs().max() < 0.2 * rows.abs().max()
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.file_type"] == 2
    assert fields["tokenizer.ggml.eos_token_id"] == 290
    assert fields["tokenizer.chat_template"] == "{{ messages }}"
    assert fields["tokenizer.ggml.token_type"][290:] == [3, 3, 4, *[5] * 37]


def test_layers_that_predict_further_tokens_are_left_out(host: PluginHost, tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.model_class == "DeepseekV3ForCausalLM")
    saved(tmp_path / "plain", family)
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    weights["model.layers.2.eh_proj.weight"] = torch.zeros(256, 512)
    save_file(weights, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    report = run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=False)
    assert "layers that predict further tokens are left out" in report.splitlines()
    assert not any(tensor.name.startswith("blk.2.") for tensor in GGUFReader(tmp_path / "model.gguf").tensors)


def test_rows_of_no_whole_blocks_have_another_type_that_is_named(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0], hidden_size=64, intermediate_size=40)
    report = run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q4_k", force=False)
    assert re.search(r"tensors in q5_0: rows of 64 values are no whole blocks of 256 \(blk.0.attn_k.weight, ", report)
    assert re.search(r"3 tensors in f32: rows of 40 values are no whole blocks \(blk.0.ffn_down.weight, ", report)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.attn_q.weight"]) == ("F32", "Q5_0")


# Encodings, and widths of the model, with what llama-quantize makes of a table that is the head, too.
TABLES = [
    ("q4_k", 256, "Q6_K"),
    ("q4_0", 256, "Q6_K"),
    ("q5_1", 96, "Q8_0"),
    ("q8_0", 256, "Q8_0"),
    ("q6_k", 40, "F32"),
]


@pytest.mark.parametrize(("encoding", "width", "type"), TABLES)
def test_a_table_that_is_the_head_is_rounded_as_llama_cpp_does(
    encoding: str, width: int, type: str, host: PluginHost, tmp_path: Path
) -> None:
    saved(tmp_path / "plain", TIED[0], hidden_size=width)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", encoding, force=False)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["token_embd.weight"] == type
    assert "output.weight" not in types


@pytest.mark.compiler
@pytest.mark.parametrize("family", TIED, ids=named)
def test_a_model_with_a_rounded_table_is_that_of_its_decoded_weights(
    family: Family, host: PluginHost, tmp_path: Path
) -> None:
    """For 64 tokens, which windows of 16 leave behind; the norms of Gemma are larger by one in the file."""
    model = saved(tmp_path / "plain", family)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q4_k", force=False)
    tensors = GGUFReader(tmp_path / "model.gguf").tensors
    values = {each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in tensors}
    architecture = next(
        number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[family.model_class]
    )
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            new = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert new is not None
            rows = torch.from_numpy(values[new].copy()).view(parameter.shape)
            if name.endswith(("q_proj.weight", "k_proj.weight")) and family.name == "tied":
                rows = rows.view(-1, rows.shape[0] // heads_of(model, name) // 2, 2, rows.shape[1]).transpose(1, 2)
            offset = 1.0 if family.name != "tied" and "norm" in name else 0.0
            parameter.copy_(rows.reshape(parameter.shape) - offset)
    compare(tmp_path / "model.gguf", model, host, tokens=64)


ARCHITECTURES = {"LlamaForCausalLM": "llama", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3"}


def heads_of(model: Any, name: str) -> int:
    config = model.config
    return int(config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)


def test_the_name_is_that_of_the_folder_or_of_the_repository(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "Tiny-1", FAMILIES[0])
    run(host, str(tmp_path / "Tiny-1"), tmp_path / "model.gguf", "float32", force=False)
    assert GGUFReader(tmp_path / "model.gguf").fields["general.name"].contents() == "Tiny-1"
    assert [name_of(ref) for ref in ("org/Some-1B", "org/Some-1B:Q4_K_M", str(tmp_path / "model.gguf"))] == [
        "Some-1B",
        "Some-1B",
        "model",
    ]


def test_a_plain_gguf_file_is_a_checkpoint_too(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0])
    for source, out, encoding in (
        ("plain", "a.gguf", "q8_0"),
        ("plain", "b.gguf", "float32"),
        ("b.gguf", "c.gguf", "q8_0"),
    ):
        run(host, str(tmp_path / source), tmp_path / out, encoding, force=False)
    first, second = (GGUFReader(tmp_path / name) for name in ("a.gguf", "c.gguf"))
    assert [tensor.name for tensor in first.tensors] == [tensor.name for tensor in second.tensors]
    assert all((a.data == b.data).all() for a, b in zip(first.tensors, second.tensors, strict=True))
    again = {name: field.contents() for name, field in second.fields.items()}
    for name, said in first.fields.items():
        assert name == "general.name" or again[name] == said.contents(), name


def test_one_tensor_is_held_at_a_time(host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = next(family for family in FAMILIES if family.model_class == "Qwen3MoeForCausalLM")
    saved(tmp_path / "plain", family)
    held: list[weakref.ref[torch.Tensor]] = []
    read = Checkpoint.read

    def counted(checkpoint: Checkpoint, name: str) -> torch.Tensor:
        assert sum(tensor() is not None for tensor in held) <= 1, name
        tensor = read(checkpoint, name).clone()
        held.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(Checkpoint, "read", counted)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=False)
    assert len(held) > 50


def test_ends_and_defaults_of_sampling_are_those_of_all_files(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0])
    changed(tmp_path / "plain", eos_token_id=3)
    said = {"eos_token_id": [4], "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    (tmp_path / "plain" / "generation_config.json").write_text(json.dumps(said))
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=False)
    generation = json.loads(Gguf().model_files(str(tmp_path / "model.gguf"))["generation_config.json"])
    ends = generation.pop("eos_token_id")
    assert {3, 4} < set(ends), "and the tokenizer's own"
    assert generation == {"temperature": 0.6, "top_k": 20, "top_p": 0.95} | {
        key: value for key, value in generation.items() if key == "bos_token_id"
    }
    (tmp_path / "plain" / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6}')
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=True)
    generation = json.loads(Gguf().model_files(str(tmp_path / "model.gguf"))["generation_config.json"])
    assert generation["temperature"] == 0


def test_values_that_float16_does_not_hold_are_an_error(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0])
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = 1e5
    save_file(weights, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up.*1e\+05, more than float16 holds; write bfloat16 instead"):
        run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "float16", force=False)
    run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "bfloat16", force=False)


def test_a_full_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    tensor = NewTensor(name="a", type=BY_NAME["F32"], shape=(1024, 1024))
    with pytest.raises(ModelError, match=r"the file will have 4.0 MiB, and 1.0 MiB are free there; make room"):
        NewFile(tmp_path / "model.gguf", {"general.architecture": "llama"}, [tensor])
    assert not (tmp_path / "model.gguf").exists()


def test_stacks_are_rounded_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.randn(3, 8, 256)
    flat = rounding.rounded_rows(stack.flatten(0, 1), BY_NAME["Q4_K"])
    monkeypatch.setattr(rounding, "_AT_ONCE", 512)
    seen = []
    write = rounding.WRITERS["Q4_K"]
    monkeypatch.setitem(rounding.WRITERS, "Q4_K", lambda rows: (seen.append(rows.shape), write(rows))[1])
    assert torch.equal(rounding.rounded_rows(stack, BY_NAME["Q4_K"]), flat.view(3, 8, -1))
    assert set(seen) == {(2, 256)}


def test_what_is_read_again_otherwise_is_an_error(tmp_path: Path) -> None:
    tensor = NewTensor(name="a", type=BY_NAME["F32"], shape=(4, 4))
    with NewFile(tmp_path / "model.gguf", {"general.architecture": "llama"}, [tensor]) as file:
        file.write("a", [torch.ones(4, 4)])
        file.check()
        content = bytearray((tmp_path / "model.gguf").read_bytes())
        content[-3] ^= 1
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(ModelError, match=r"a is not what was written; is the disk in order"):
            file.check()


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"architectures": ["BertModel"]}, r"models of BertModel are not written as GGUF files; written are DeepseekV2"),
    (
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 16},
        r"a GGUF file cannot say all of its config.json; read again, cache_layers is .*window=16",
    ),
    (
        {"rope_parameters": {**LLAMA3, "low_freq_factor": 2.0}},
        r"the rope's low_freq_factor is 2.0, where GGUF files are",
    ),
    (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        r"GGUF files have no rope type 'dy",
    ),
    ({"hidden_act": "gelu"}, r"read again, activation is 'silu' instead of 'gelu'"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_a_file_cannot_say_is_refused(
    keys: Mapping[str, Any], message: str, host: PluginHost, tmp_path: Path
) -> None:
    saved(tmp_path / "plain", FAMILIES[0])
    changed(tmp_path / "plain", **keys)
    with pytest.raises(ModelError, match=message):
        run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=False)
    assert [file.name for file in tmp_path.iterdir()] == ["plain"]


def test_what_lies_in_the_folder_and_has_no_place_is_refused(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0])
    (tmp_path / "plain" / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(ModelError, match=r"plain has no tokenizer.json, and transformers makes none"):
        run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=False)
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    weights["model.layers.0.self_attn.gate.weight"] = torch.zeros(4, 4)
    save_file(weights, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"have no place for model.layers.0.self_attn.gate.weight"):
        run(host, str(tmp_path / "plain"), tmp_path / "model.gguf", "q8_0", force=False)


def test_only_a_file_is_replaced(host: PluginHost, tmp_path: Path) -> None:
    saved(tmp_path / "plain", FAMILIES[0])
    plain, out = str(tmp_path / "plain"), tmp_path / "model.gguf"
    (tmp_path / "m-00001-of-00002.gguf").write_text("of another model")
    for name, why in (
        ("m-00001-of-00002.gguf", r"would be taken for a part of several"),
        ("model", r"is written as one file; let OUT, .*model, end with .gguf"),
        ("f.gguf", r"not the file"),
    ):
        (tmp_path / "f.gguf").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=why):
            run(host, plain, tmp_path / name, "q8_0", force=True)
    out.write_text("old")
    with pytest.raises(UsageError, match=r"exists; replace it with --force"):
        run(host, plain, out, "q8_0", force=False)
    assert out.read_text() == "old"
    run(host, plain, out, "q8_0", force=True)
    assert GGUFReader(out).tensors
    with pytest.raises(UsageError, match=r"is, or holds, the checkpoint that is read"):
        run(host, str(out), out, "q8_0", force=True)
