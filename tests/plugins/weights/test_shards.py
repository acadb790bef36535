"""The shards of a model, put together, are its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maxserve.core.interfaces.codes import Codes
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.loading.linear import Embedding, Linear, Part
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.quantization import quantization_of, rounding_to
from maxserve.core.loading.shard import Shard
from maxserve.core.loading.storage import LinearStorage
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.safetensors.files import SafetensorsFile
from maxserve.plugins.weights.shards import HasRows, Shared, SharesValues, codes_of, cut_layout, inputs_of, layouts
from maxserve.plugins.weights.weight_plan import Read
from maxserve.plugins.weights.weights import load_weights
from maxserve.testing.architecture import randomised
from maxserve.testing.quantization import nibble_plugin, quantize_checkpoint
from maxserve.testing.tiny_configs import model_class, tiny_config

FAMILIES = (
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Phi3ForCausalLM",
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
    "GptOssForCausalLM",
    "DeepseekV3ForCausalLM",
    "BertModel",
)


@pytest.fixture(scope="module")
def host() -> Any:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def written(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """A checkpoint of a tiny model; returns the content of its config.json."""
    config = tiny_config(name, architectures=[name], **changes)
    randomised(model_class(name)(config)).save_pretrained(folder)  # type: ignore[operator]
    raw: dict[str, Any] = config.to_dict()
    return raw


def loaded(host: Any, raw: dict[str, Any], folder: Path, shard: Shard | None, **options: Any) -> nn.Module:
    architecture = host.architectures.get(raw["architectures"][0])
    spec = host.load(architecture, architecture.component.config)(raw)
    weights = architecture.component.weights
    weight_map = host.load(architecture, weights)(spec) if isinstance(weights, str) else weights
    with torch.device("meta"):
        model: nn.Module = host.build(architecture, spec)
    files = [SafetensorsFile(str(file)) for file in folder.glob("*.safetensors")]
    load_weights(
        model, files, weight_map, dtype=torch.float32, device="cpu", progress=NullProgress(), shard=shard, **options
    )
    return model


def together(whole: Tensor, shards: Sequence[Tensor], module: Shared, own: str) -> Tensor:
    """The parameter that the shards make up, by what the module says of itself alone."""
    axis = whole.dim() - (2 if own == "weight" else 1)
    if module.role == "row" and own == "weight":
        return torch.cat(list(shards), dim=-1)
    if module.role != "column":
        return shards[0]
    made, at = [], [0] * len(shards)
    for part in module.parts.values():
        copies = 1 if part.units is None else max(1, len(shards) // part.units)  # ranks that have one and the same unit
        for rank, shard in enumerate(shards):
            units = part.units or part.size
            size = ((rank + 1) * units // len(shards) - rank * units // len(shards)) * part.size // units
            size = part.size // units if copies > 1 else size
            if rank % copies == 0:
                made.append(shard.narrow(axis, at[rank], size))
            at[rank] += size
    assert at == [shard.shape[axis] for shard in shards]
    return torch.cat(made, dim=axis)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_make_up_the_model(host: Any, name: str, ranks: int, tmp_path: Path) -> None:
    """With four ranks, two have each head of keys and values."""
    raw = written(name, tmp_path)
    whole = loaded(host, raw, tmp_path, None)
    shards = [loaded(host, raw, tmp_path, Shard(rank=rank, size=ranks)) for rank in range(ranks)]
    split = 0
    for key, parameter in whole.named_parameters():
        module, own = whole.get_submodule(key.rpartition(".")[0]), key.rpartition(".")[2]
        found = [shard.get_parameter(key) for shard in shards]
        if isinstance(module, Shared):
            assert torch.equal(together(parameter, found, module, own), parameter), key
            split += found[0].shape != parameter.shape
        elif isinstance(module, SharesValues) and own in module.shared_values:
            assert torch.equal(torch.cat(found), parameter), key
        else:
            assert all(torch.equal(each, parameter) for each in found), key
    assert split >= 4 * 2, "attention and the feed-forward part of every layer are shared out"


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "MixtralForCausalLM"])
def test_a_linear_method_gets_the_shard(host: Any, name: str, tmp_path: Path) -> None:
    raw, shard = written(name, tmp_path), Shard(rank=1, size=2)
    plain = loaded(host, raw, tmp_path, shard)
    context = LinearContext(compute=torch.float32, device=torch.device("cpu"))
    method = host.build(host.linear_methods.get("native"), context)
    packed = loaded(host, raw, tmp_path, shard, storage=LinearStorage(method=method))
    for key, module in plain.named_modules():
        if isinstance(module, Linear):
            assert module.weight is not None
            x = torch.randn(3, module.weight.shape[1], generator=torch.Generator().manual_seed(0))
            torch.testing.assert_close(packed.get_submodule(key)(x), module(x))


def test_quantized_weights_are_shared_out_once_unpacked(plugin_host: Any, tmp_path: Path) -> None:
    raw, host = written("LlamaForCausalLM", tmp_path), plugin_host(nibble_plugin())
    meant = quantize_checkpoint(tmp_path)
    quantization = quantization_of(host, {"quantization_config": {"quant_method": "nibbles"}}, "it")
    shard = loaded(host, raw, tmp_path, Shard(rank=1, size=2), quantization=quantization)
    name = "model.layers.0.mlp.down_proj.weight"
    expected, found = meant[name], shard.get_parameter(name)
    assert torch.equal(found, expected[:, expected.shape[1] // 2 :])


def test_tables_need_not_be_divisible(host: Any, tmp_path: Path) -> None:
    raw = written("LlamaForCausalLM", tmp_path, vocab_size=95, tie_word_embeddings=True)
    sizes = [
        loaded(host, raw, tmp_path, Shard(rank=rank, size=2)).get_parameter("model.embed_tokens.weight").shape[0]
        for rank in (0, 1)
    ]
    assert sizes == [47, 48]


def test_heads_stay_whole() -> None:
    model = nn.ModuleDict({"qkv": Linear(8, 24, role="column", parts={"q": Part(24, 6)}), "table": Embedding(3, 4)})
    assert layouts(model, ["qkv.weight", "table.weight"], Shard(rank=0, size=3)).keys() == {"qkv.weight"}
    with pytest.raises(ModelError, match="q has 6 heads or units, which 4 ranks cannot share"):
        layouts(model, ["qkv.weight"], Shard(rank=0, size=4))


@pytest.mark.parametrize("block", [0, 1, 2, 3, 16])
@pytest.mark.parametrize("group", [16, 32, 96, 200, 400])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(0, 192), (192, 384), (96, 192), (100, 200), (300, 400), (0, 400)])
def test_codes_of_some_inputs_are_the_same_numbers(block: int, group: int, extras: bool, start: int, stop: int) -> None:
    """Whether the cut is at a border of blocks, of groups, or of neither."""
    inputs, generator = 400, torch.Generator().manual_seed(group + block)
    groups = -(-inputs // group)

    def numbers(count: int) -> Tensor:
        return torch.rand(5, count, generator=generator)

    blocks = -(-groups // block) if block else 0
    codes = Codes(
        codes=torch.randint(0, 16, (5, inputs), generator=generator, dtype=torch.uint8),
        table=torch.arange(16.0),
        group=group,
        scales=numbers(groups),
        offsets=numbers(groups) if extras else None,
        zeros=numbers(groups) if extras else None,
        block=block or 1,
        block_scales=numbers(blocks) if block else None,
        block_offsets=numbers(blocks) if block and extras else None,
    )
    found = inputs_of(codes, start, stop)
    assert torch.equal(found.values(), codes.values()[:, start:stop])
    assert found.layout == cut_layout(codes.layout, (start, stop))


@pytest.mark.parametrize("encoding", ["q8_0", "q4_k", "float8_e4m3fn"])
def test_what_is_taken_of_a_quantized_tensor(host: Any, encoding: str) -> None:
    """Of formats that can leave rows unread, and of others."""
    rounds, weight = rounding_to(host, encoding), torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    tensors = rounds.rounded(weight)
    read = Read(file="", name="w", dtype="F32", shape=(8, 512), size=0, target="w", rows=(4, 12))
    whole = rounds.codes(tensors).values()
    assert torch.equal(codes_of(rounds, tensors, read).values(), whole[4:12])
    part = replace(read, taken=((-2, 3, 7), (-1, 96, 352)))
    assert torch.equal(codes_of(rounds, tensors, part).values(), whole[7:11, 96:352])
    assert isinstance(rounds, HasRows) == (encoding != "float8_e4m3fn")
