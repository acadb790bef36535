"""Quantized weights come out as transformers unpacks them, in any family; what does not fit together is named."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV32Config, GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.core.loading.quantization import codes_size
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.quantization.fp8 import Fp8
from maxserve.plugins.quantization.mxfp4 import Mxfp4
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.quantization import NibbleLinear, NibbleMethod, infos, nibble_plugin, quantize_checkpoint
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}


def fp8(quantization: dict[str, Any] = FP8) -> Fp8:
    return Fp8(QuantizationContext(model_config={"quantization_config": quantization}))


def test_mxfp4_is_what_transformers_makes_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (3, 8, 2, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 150, (3, 8, 2), dtype=torch.uint8, generator=generator)
    format = Mxfp4(QuantizationContext(model_config={}))
    expected = convert_moe_packed_tensors(blocks, scales).transpose(1, 2)
    assert format.shape(infos({"blocks": blocks, "scales": scales})) == tuple(expected.shape)
    for entry in range(3):
        codes = format.codes({"blocks": blocks[entry], "scales": scales[entry]})
        assert torch.equal(codes.values(), expected[entry].float())
    with pytest.raises(ModelError, match="do not fit"):
        format.shape(infos({"blocks": blocks, "scales": scales[:, :4]}))
    scales[1, 7, 1] = 255
    with pytest.raises(ModelError, match="are 255, which are no numbers"):
        format.codes({"blocks": blocks[1], "scales": scales[1]})


@pytest.mark.parametrize("shape", [(32, 48), (20, 33), (16, 16), (5, 70)])
def test_fp8_in_blocks(shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-shape[0] // 16), -(-shape[1] // 16), generator=torch.Generator().manual_seed(1))
    result = fp8().codes({"values": weight, "scales": scales}).values()
    for row in range(shape[0]):
        for column in range(shape[1]):
            expected = weight[row, column].float() * scales[row // 16, column // 16]
            assert result[row, column] == expected
    with pytest.raises(ModelError, match="do not fit a weight"):
        fp8().shape(infos({"values": weight, "scales": scales.repeat(2, 2)}))


@pytest.mark.parametrize("scales", [(), (1,), (32,), (32, 1)])
def test_fp8_without_blocks(scales: tuple[int, ...]) -> None:
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    factors = torch.rand(scales, generator=torch.Generator().manual_seed(1))
    built, tensors = fp8({"quant_method": "fp8"}), {"values": weight, "scales": factors}
    assert built.shape(infos(tensors)) == (32, 48)
    assert torch.equal(built.codes(tensors).values(), weight.float() * factors.reshape(-1, 1))
    with pytest.raises(ModelError, match="do not fit a weight"):
        built.shape(infos({"values": weight, "scales": torch.rand(7)}))


def test_fp8_that_is_no_number_is_refused() -> None:
    codes = torch.full((32, 48), 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match="are no numbers"):
        fp8({"quant_method": "fp8"}).codes({"values": codes, "scales": torch.ones(1)})


@pytest.mark.parametrize("name", ["logit_scale", "model.router.per_expert_scale", "model.layers.0.layer_scale"])
def test_parameters_called_scales_are_no_part_of_fp8(name: str) -> None:
    assert fp8().part(name, "F32") is None
    assert fp8().part_among(name, {name: "F32", name.removesuffix("_scale"): "F32"}) is None
    types = {name: "F32", name.removesuffix("_scale"): "F8_E4M3"}
    assert fp8().part_among(name, types) == (name.removesuffix("_scale"), "scales")
    assert fp8().part("experts.gate_up_proj_scale_inv", "F32") == ("experts.gate_up_proj", "scales")


def test_what_fp8_does_not_round_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    built = fp8({"quant_method": "fp8"})
    assert built.part("q_proj.input_scale", "F32") == ("q_proj.weight", "inputs")
    assert built.left_out("self_attn.k_scale", torch.ones(1))
    assert not built.left_out("self_attn.bias", torch.ones(1))
    tensors = {"values": torch.ones(32, 48).to(torch.float8_e4m3fn), "scales": torch.ones(1)}
    with caplog.at_level("INFO"):
        for _ in range(2):
            built.codes(tensors)
    assert caplog.text.count("inputs of projections are not rounded") == 1
    assert caplog.text.count("--kv-cache-format float8_e4m3fn stores them so") == 1


@pytest.mark.parametrize("size", [128, [128], [0, 128], ["a", "b"], [1.0, 2.0]])
def test_blocks_that_are_none_are_refused(size: object) -> None:
    with pytest.raises(ModelError, match="are two numbers such as"):
        fp8({"quant_method": "fp8", "weight_block_size": size})


def packed_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Random blocks and scales for a weight [experts, inputs, outputs], and the weight they stand for."""
    experts, inputs, outputs = weight.shape
    generator = torch.Generator().manual_seed(inputs)
    blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(122, 125, (experts, outputs, inputs // 32), dtype=torch.uint8, generator=generator)
    return blocks, scales, convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)


def packed_fp8(weight: Tensor, scales: Sequence[float] = (0.5, 1.0)) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a weight [outputs, inputs] in blocks of 16, with some of the scales: powers of two, so that the
    weights are exact in bfloat16, too, which they are unpacked to where no method takes codes."""
    rows, columns = weight.shape
    generator = torch.Generator().manual_seed(rows + columns)
    numbers = torch.randint(len(scales), (-(-rows // 16), -(-columns // 16)), generator=generator)
    chosen, values = torch.tensor(scales)[numbers], weight.to(torch.float8_e4m3fn)
    return values, chosen, fp8().codes({"values": values, "scales": chosen}).values()


def write(folder: Path, changed: dict[str, Tensor], left_out: set[str], **config: Any) -> None:
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if name not in left_out}
    bulk = {name: tensor.bfloat16() if tensor.dim() > 1 else tensor for name, tensor in kept.items()}
    save_file(bulk | {name: tensor.contiguous() for name, tensor in changed.items()}, file)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | config))


def gpt_oss(folder: Path) -> Any:
    """A packed checkpoint of a tiny GPT-OSS; returns the model that it stands for."""
    config = GptOssConfig(
        vocab_size=71,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        sliding_window=7,
        num_local_experts=4,
        num_experts_per_tok=2,
        architectures=["GptOssForCausalLM"],
    )
    reference: Any = randomised(ArchitectureChecks.reference(config))
    reference.save_pretrained(folder)
    changed = {}
    for i, layer in enumerate(reference.model.layers):
        for name in ("gate_up_proj", "down_proj"):
            key, parameter = f"model.layers.{i}.mlp.experts.{name}", getattr(layer.mlp.experts, name)
            changed[key + "_blocks"], changed[key + "_scales"], parameter.data = packed_mxfp4(parameter.data)
    left_out = {name.removesuffix("_blocks") for name in changed}
    write(folder, changed, left_out, quantization_config={"quant_method": "mxfp4"})
    return rounded(reference, left_out)


DEEPSEEK: dict[str, Any] = {
    "vocab_size": 73,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
PACKED = ("_proj.weight", "_mqa.weight", ".wq_b.weight", ".wk.weight")


def deepseek(folder: Path) -> Any:
    return in_blocks(folder, DeepseekV3Config(**DEEPSEEK, architectures=["DeepseekV3ForCausalLM"]))


def deepseek_v32(folder: Path) -> Any:
    sizes = {**DEEPSEEK, "index_topk": 6, "index_head_dim": 12, "index_n_heads": 16}
    return in_blocks(folder, DeepseekV32Config(**sizes, architectures=["DeepseekV32ForCausalLM"]))


def in_blocks(folder: Path, config: Any) -> Any:
    reference: Any = randomised(ArchitectureChecks.reference(config))
    reference.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    packed = [name for name in stored if name.endswith(PACKED) and not name.endswith("weights_proj.weight")]
    changed, unpacked = {}, {}
    for name in packed:
        changed[name], changed[name + "_scale_inv"], unpacked[name] = packed_fp8(stored[name])
    write(folder, changed, set(packed), quantization_config=FP8)
    parameters = dict(reference.named_parameters())
    for name, tensor in unpacked.items():
        if ".experts." not in name:
            parameters[name].data = tensor
    for i, layer in enumerate(reference.model.layers[1:], start=1):
        for e in range(8):
            gate, up, down = (
                unpacked[f"model.layers.{i}.mlp.experts.{e}.{part}_proj.weight"] for part in ("gate", "up", "down")
            )
            layer.mlp.experts.gate_up_proj.data[e] = torch.cat((gate, up))
            layer.mlp.experts.down_proj.data[e] = down
    experts = {name for name in parameters if ".experts." in name}
    return rounded(reference, set(packed) | experts)


def rounded(reference: Any, packed: set[str]) -> Any:
    """The model with what is not packed rounded as its checkpoint is."""
    for name, parameter in reference.named_parameters():
        if name not in packed and parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16().float()
    return reference


def llama_config(**changes: Any) -> Any:
    return tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"], num_hidden_layers=2, **changes)


def llama(folder: Path, scales: Sequence[float] = (0.5, 1.0)) -> Any:
    """FP8 in a family whose authors never released such a checkpoint, with fused projections."""
    reference: Any = randomised(ArchitectureChecks.reference(llama_config()))
    reference.save_pretrained(folder)
    changed = {}
    for name, parameter in reference.named_parameters():
        if name.endswith("_proj.weight"):
            changed[name], changed[name + "_scale_inv"], parameter.data = packed_fp8(parameter.data, scales)
    write(folder, changed, set(changed), quantization_config=FP8)
    return rounded(reference, set(changed))


@pytest.mark.parametrize("make", [gpt_oss, deepseek, deepseek_v32, llama])
@pytest.mark.parametrize("use_subgraphs", [True, False], ids=["compiled", "torch"])
def test_a_packed_checkpoint_is_served(make: Any, use_subgraphs: bool, tmp_path: Path) -> None:
    reference = make(tmp_path)
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    served = Served(tmp_path, host, use_subgraphs=use_subgraphs, native__precision="exact")
    prompt = torch.randint(70, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    expected, answer = continuation(reference, prompt, 16), served.answers([prompt], 16)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4


@pytest.mark.compiler
def test_codes_are_multiplied_without_being_rounded(tmp_path: Path) -> None:
    """Where the linear method takes codes, weights are what they mean in float32, not in bfloat16."""
    reference = llama(tmp_path, scales=(0.53, 0.71, 0.97))
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    served = Served(tmp_path, host, use_subgraphs=True, native__precision="exact")
    prompt = list(range(5, 25))
    expected, answer = continuation(reference, prompt, 16), served.answers([prompt], 16)[0]
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4


def test_gpt_oss_may_be_asked_for_by_its_encoding(tmp_path: Path) -> None:
    gpt_oss(tmp_path)
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    Served(tmp_path, host, use_subgraphs=False, quantization_encoding="mxfp4")
    with pytest.raises(ModelError, match="is stored as mxfp4"):
        Served(tmp_path, host, use_subgraphs=False, quantization_encoding="q4_k")


def test_scales_and_values_must_belong_together(tmp_path: Path) -> None:
    gpt_oss(tmp_path)
    host, file = PluginHost.discover(PluginOptions(autoload=False), strict=True), tmp_path / "model.safetensors"
    whole = load_file(file)
    name = "model.layers.1.mlp.experts.down_proj"
    for role in ("scales", "blocks"):
        save_file({key: tensor for key, tensor in whole.items() if key != f"{name}_{role}"}, file)
        with pytest.raises(ModelError, match=f"{re.escape(name)}.*whose {role} are missing"):
            Served(tmp_path, host)


def nibbles(folder: Path, **changes: Any) -> Any:
    """A checkpoint of a tiny Llama in the format of the testing kit; returns the model that it stands for."""
    reference: Any = randomised(ArchitectureChecks.reference(llama_config(**changes)))
    reference.save_pretrained(folder)
    parameters = dict(reference.named_parameters())
    for name, tensor in quantize_checkpoint(folder).items():
        parameters[name].data = tensor
    return reference


@pytest.mark.parametrize("taken", [False, True], ids=["unpacked", "taken by the linear method"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_strangers_format_is_served(plugin_host: Any, taken: bool, tied: bool, tmp_path: Path) -> None:
    """The linear method gets the codes of each weight as they are, those of fused ones part by part."""
    reference = nibbles(tmp_path, tie_word_embeddings=tied)
    context = LinearContext(compute=torch.float32, device=torch.device("cpu"))
    method = NibbleMethod(context) if taken else None
    served = Served(tmp_path, plugin_host(nibble_plugin(method)), use_subgraphs=False)
    prompt = torch.randint(70, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    expected, answer = continuation(reference, prompt, 16), served.answers([prompt], 16)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4
    if method is not None:
        assert len(method.created) == 2 * 4, "qkv, o, gate and up, down of each of two layers"
        assert all(isinstance(each, NibbleLinear) for each in method.created)


def test_a_format_that_nobody_knows_is_named_with_those_known(plugin_host: Any, tmp_path: Path) -> None:
    nibbles(tmp_path)
    with pytest.raises(ModelError, match=r"\(nibbles\), which is not supported yet.*known: .*fp8, gguf, gptq, .*mxfp4"):
        Served(tmp_path, plugin_host())


def test_codes_of_layers_that_draft_are_not_the_models() -> None:
    """What a weight map leaves out is not counted among the codes that a module holds."""
    shapes = {"values": torch.zeros(32, 48, dtype=torch.float8_e4m3fn), "scales": torch.ones(2, 3)}
    names = {"values": "weight", "scales": "weight_scale_inv"}
    headers = {
        f"model.layers.{layer}.up_proj.{names[role]}": info
        for layer in range(3)
        for role, info in infos(shapes).items()
    }
    sizes = [
        codes_size({"a": headers}, fp8(), weight_map)
        for weight_map in (WeightMap(), WeightMap(optional=(r"layers\.2\.",)), WeightMap(ignored=(r"layers\.[01]\.",)))
    ]
    each = 32 * 48, 32 * 48 + 6 * 4 + 32 * 3 * 4
    assert sizes == [(count * each[0], count * each[1]) for count in (3, 2, 1)]
