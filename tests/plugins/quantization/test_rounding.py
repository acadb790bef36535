from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.quantization import rounding_of, rounding_to
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.interfaces.quantization import RoundingContext
from maxserve.loading import Embedding, ExactLinear, Linear
from maxserve.plugins.weights.rounded import may_be_rounded
from maxserve.quantization import WeightRounding
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config

SIZES: Mapping[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 128}
ENCODINGS = ("q4_0", "q8_0", "q4_k", "q6_k", "float8_e4m3fn")
PROMPT = torch.randint(2, 90, (40,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def tiny(model_class: str, **config: Any) -> Any:
    made = tiny_config(model_class, architectures=[model_class], **{**SIZES, **config})
    return randomised(ArchitectureChecks.reference(made))


def values(host: PluginHost, encoding: str, weight: Tensor) -> Tensor:
    """A weight, or a stack of them, once it is rounded; itself where its size is none that is rounded."""
    rounds, flat = rounding_to(host, encoding), weight.reshape(-1, weight.shape[-1])
    if not rounds.rounded_tensors(*flat.shape):
        return weight
    return rounds.codes(rounds.rounded(flat)).values().view(weight.shape)


def round_model(host: PluginHost, encoding: str, model: Any) -> None:
    """Rounds what `max serve` does of a model of transformers: projections and experts, no tables, no routers, and
    not what makes keys of latent vectors, which is read both ways."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and not re.search(r"\.(gate|router|kv_b_proj)$", name):
                rounded = values(host, encoding, module.weight)
                if id(module.weight) in tables:
                    module.weight = torch.nn.Parameter(rounded)  # the table stays as it is
                else:
                    module.weight.copy_(rounded)
        for name, parameter in model.named_parameters():
            if re.search(r"experts\.(gate_up|down)_proj$", name):
                transposed = "GptOss" in type(model).__name__  # whose experts have their axes the other way round
                weight = parameter.transpose(1, 2).contiguous() if transposed else parameter
                rounded = values(host, encoding, weight)
                parameter.copy_(rounded.transpose(1, 2) if transposed else rounded)


def compare(served: Served, reference: Any) -> None:
    expected, answer = continuation(reference, PROMPT, 8), served.answers([PROMPT], 8)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4


FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "LlamaForCausalLM": {"tie_word_embeddings": False},
    "Qwen3MoeForCausalLM": {"moe_intermediate_size": 256, "norm_topk_prob": True},
    "GptOssForCausalLM": {},
    "Phi3ForCausalLM": {"sliding_window": None},  # several projections in one tensor
    "DeepseekV2ForCausalLM": {},
}


@pytest.mark.compiler
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_plain_checkpoint_is_served_as_what_it_is_rounded_to(
    family: str, encoding: str, host: PluginHost, tmp_path: Path
) -> None:
    model = tiny(family, **FAMILIES[family])
    model.save_pretrained(tmp_path)
    round_model(host, encoding, model)
    compare(Served(tmp_path, host, quantization_encoding=encoding), model)


@pytest.mark.compiler
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", ["LlamaForCausalLM", "GptOssForCausalLM", "Phi3ForCausalLM"])
def test_two_ranks_share_it(family: str, encoding: str, shared: Any, tmp_path: Path) -> None:
    """Rounded in the blocks of one rank, of which shares of inputs may begin within one."""
    tiny(family, **FAMILIES[family], intermediate_size=768).save_pretrained(tmp_path)
    shared(tmp_path, quantization_encoding=encoding)


@pytest.mark.parametrize(
    "options", [{"linear_method": "none"}, {"use_subgraphs": False}], ids=lambda each: next(iter(each))
)
@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Qwen3MoeForCausalLM"])
def test_two_ranks_share_it_where_nothing_takes_codes(
    family: str, options: Mapping[str, Any], shared: Any, tmp_path: Path
) -> None:
    tiny(family, **FAMILIES[family]).save_pretrained(tmp_path)
    shared(tmp_path, quantization_encoding="q4_k", **options)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Qwen3MoeForCausalLM"])
@pytest.mark.parametrize(
    "options", [{"linear_method": "none"}, {"use_subgraphs": False}], ids=lambda each: next(iter(each))
)
def test_it_is_the_same_where_nothing_takes_codes(
    family: str, encoding: str, options: Mapping[str, Any], host: PluginHost, tmp_path: Path
) -> None:
    model = tiny(family, **FAMILIES[family])
    model.save_pretrained(tmp_path)
    round_model(host, encoding, model)
    compare(Served(tmp_path, host, quantization_encoding=encoding, **options), model)


@pytest.mark.compiler
@pytest.mark.parametrize("options", [{}, {"linear_method": "none"}, {"use_subgraphs": False}], ids=str)
def test_a_head_is_rounded_and_the_table_that_it_shares_is_not(
    options: Mapping[str, Any], host: PluginHost, tmp_path: Path
) -> None:
    model = tiny("LlamaForCausalLM", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    round_model(host, "q4_0", model)
    compare(Served(tmp_path, host, quantization_encoding="q4_0", **options), model)


@pytest.mark.compiler
def test_what_is_not_rounded_is_named(host: PluginHost, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("DeepseekV2ForCausalLM")
    model.save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        Served(tmp_path, host, quantization_encoding="q8_0")
    said = re.search(r"million other values are not rounded: (.*)", caplog.text)
    assert said is not None
    kept = {name: int(count.replace(",", "")) for name, count in re.findall(r"([\w.]+) \(([\d,]+)\)", said[1])}
    assert sorted(kept) == ["mlp.gate", "model.embed_tokens", "self_attn.kv_b_proj", "self_attn.q_b_proj"]
    for name, values in kept.items():  # q_b_proj has 24 inputs, and blocks are of 32
        assert values == sum(p.numel() for own, p in model.named_parameters() if own.endswith(f"{name}.weight")), name
    count = sum(kept.values())
    planned = re.search(r"projections in q8_0, ([\d.]+) KiB of others are not", caplog.text)
    assert planned is not None
    norms = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert float(planned[1]) * 1024 == pytest.approx(4 * (count + norms), rel=0.01)


@pytest.mark.compiler
@pytest.mark.parametrize("tied", [False, True])
def test_memory_is_planned_for_the_codes(
    tied: bool, host: PluginHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("LlamaForCausalLM", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        Served(tmp_path, host, quantization_encoding="q4_0")
    assert "projections are held in q4_0 and computed in float32" in caplog.text
    planned = re.search(r"weights +([\d.]+) KiB", caplog.text)
    assert planned is not None
    linear = [each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Linear)]
    everything = sum(parameter.numel() for parameter in model.parameters())
    kept = everything - sum(linear) + (model.lm_head.weight.numel() if tied else 0)
    assert float(planned[1]) * 1024 == pytest.approx(4 * kept + sum(linear) * 18 / 32, rel=0.01)
    said = re.search(r"([\d.]+) million values of projections are rounded to q4_0: (\S+) KiB instead of", caplog.text)
    assert said is not None
    assert float(said[2]) * 1024 == pytest.approx(sum(linear) * 18 / 32, rel=0.01)


def test_what_may_be_rounded() -> None:
    assert may_be_rounded(Linear(64, 64))
    assert not may_be_rounded(Linear(64, 64, roundable=False))
    assert not may_be_rounded(ExactLinear(64, 64))
    assert not may_be_rounded(Embedding(64, 64))


def test_the_log_says_how_far_off_the_weights_are(host: PluginHost, caplog: pytest.LogCaptureFixture) -> None:
    rounding = WeightRounding(RoundingContext(encoding="q8_0", rounds=rounding_to(host, "q8_0"), by="gguf"))
    rounding.codes(torch.randn(4, 64, generator=torch.Generator().manual_seed(1)))
    with caplog.at_level("INFO"):
        rounding.say()
    assert re.search(r"0\.0 million values .* q8_0: 272 B instead of 1\.0 KiB, in .* off by 0\.[3-7]\d* %", caplog.text)


def test_sizes_that_cannot_be_rounded_are_said(host: PluginHost, caplog: pytest.LogCaptureFixture) -> None:
    rounding = WeightRounding(RoundingContext(encoding="q4_0", rounds=rounding_to(host, "q4_0"), by="gguf"))
    assert rounding.layout(64, 33) is None
    rounding.say()
    assert "no weight has a size that can be rounded to q4_0" in caplog.text


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_name(damage: float, host: PluginHost, tmp_path: Path) -> None:
    model = tiny("LlamaForCausalLM")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[3, 3] = damage
    model.save_pretrained(tmp_path)
    for encoding in ENCODINGS:
        with pytest.raises(ModelError, match=r"o_proj.weight in .*: some of its values are no numbers.*; fetch the"):
            Served(tmp_path, host, quantization_encoding=encoding)


@pytest.mark.compiler
def test_a_draft_model_is_rounded_too(host: PluginHost, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("LlamaForCausalLM")
    model.save_pretrained(tmp_path)
    options = {"speculative_method": "standalone", "draft_model_path": str(tmp_path)}
    with caplog.at_level("INFO"):
        served = Served(tmp_path, host, draft_quantization_encoding="q8_0", **options)
    assert "rounded to q8_0" in caplog.text
    compare(served, model)


Make = Callable[..., Served]


@pytest.fixture
def cached(host: PluginHost, tmp_path: Path) -> Make:
    tiny("LlamaForCausalLM").save_pretrained(tmp_path / "model")

    def serve(encoding: str = "q4_k") -> Served:
        folder = str(tmp_path / "cache")
        return Served(tmp_path / "model", host, quantization_encoding=encoding, cache_quantized=folder)

    return serve


@pytest.mark.compiler
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_was_rounded_is_found_again(
    encoding: str, cached: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        first = cached(encoding).answers([PROMPT], 8)[0]
        assert "(0 weights were in" in caplog.text
        caplog.clear()
        again = cached(encoding).answers([PROMPT], 8)[0]
    count = sum(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    assert f"({count} weights were in {tmp_path / 'cache'}, 0 are added)" in caplog.text
    assert (first.tokens, first.logprobs) == (again.tokens, again.logprobs)


def test_what_another_version_of_a_plugin_rounded_is_rounded_again(host: PluginHost, tmp_path: Path) -> None:
    files: Any = SimpleNamespace(rounding="q8_0", rounding_cache=str(tmp_path))
    (entry,) = (entry for entry in host.quantization_formats if "q8_0" in entry.component.rounds)
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    for version, count in (("1.0", 1), ("1.0", 1), ("1.1", 2)):
        one: Any = SimpleNamespace(
            quantization_formats=[replace(entry, version=version)], build=host.build, load=host.load
        )
        rounding = rounding_of(one, files)
        assert rounding is not None
        rounding.codes(weight)
        assert sum(path.is_file() for path in tmp_path.rglob("*")) == count


@pytest.mark.compiler
def test_a_cache_is_only_for_weights_that_are_rounded(cached: Make, host: PluginHost, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--cache-quantized: weights of .* are not rounded to float32; leave it out"):
        cached("float32")
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file")
    with pytest.raises(ModelError, match=r"--cache-quantized .*file: nothing can be written there"):
        Served(tmp_path / "model", host, quantization_encoding="q4_0", cache_quantized=folder)


def test_the_log_names_what_weights_of_other_sizes_are_rounded_to(
    host: PluginHost, caplog: pytest.LogCaptureFixture
) -> None:
    rounding = WeightRounding(RoundingContext(encoding="q4_k", rounds=rounding_to(host, "q4_k"), by="gguf"))
    random = torch.Generator().manual_seed(1)
    rounding.codes(torch.randn(3, 256, generator=random))
    rounding.codes(torch.randn(4, 96, generator=random))
    with caplog.at_level("INFO"):
        rounding.say()
    (size,) = re.findall(r"are rounded to q4_k and, of sizes without its blocks, to q5_0 \((\d+) %\): ", caplog.text)
    assert int(size) == round(100 * (4 * 3 * 22) / (3 * 144 + 4 * 3 * 22))


@pytest.mark.compiler
def test_what_sizes_without_blocks_become_is_named(
    host: PluginHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Inputs of 256 make a block of q4_k, others are rounded to q5_0."""
    model = tiny("LlamaForCausalLM", hidden_size=64, intermediate_size=256)
    model.save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        Served(tmp_path, host, quantization_encoding="q4_k")
    sizes = {"q5_0": 0.0, "q4_k": 0.0}
    for each in model.modules():
        if isinstance(each, torch.nn.Linear):
            k = each.in_features % 256 == 0
            sizes["q4_k" if k else "q5_0"] += each.weight.numel() * (144 / 256 if k else 22 / 32)
    share = round(100 * sizes["q4_k"] / sum(sizes.values()))
    held = f"q5_0 ({100 - share}%) and q4_k ({share}%)"
    assert f"projections are held in {held} and computed in float32" in caplog.text
    assert f"projections in {held}" in caplog.text
