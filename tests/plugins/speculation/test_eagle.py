"""EAGLE heads with the names and config fields that they are published with, against layers of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP

from maxserve.core.interfaces.errors import ModelError, SettingsError
from maxserve.interfaces.request import Request, SamplingParams
from maxserve.interfaces.speculator import DraftStep
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.draft_head import DraftHeadCases, DraftHeadChecks, DraftHeadQuirkChecks, HeadReference
from maxserve.testing.served import GREEDY, Served
from maxserve.testing.speculator import few_pages
from maxserve.testing.tiny_configs import tiny_config

VOCAB, DIM, LAYERS = 96, 64, 6
SIZES: dict[str, Any] = {
    "hidden_size": DIM,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 5000.0,
    "max_position_embeddings": 64,  # fewer than the target's, as many heads have
}


def write_target(folder: Path, family: str = "LlamaForCausalLM", **changes: Any) -> Any:
    if family == "Qwen3ForCausalLM":
        changes["layer_types"] = ["full_attention"] * LAYERS
    config = tiny_config(family, architectures=[family], num_hidden_layers=LAYERS, **changes)
    model = randomised(ArchitectureChecks.reference(config))
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


def write_head(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, folder / "model.safetensors")


def whole_text(n: int) -> dict[str, Any]:
    """Arguments of a layer of transformers that runs over one text."""
    return {"attention_mask": torch.full((n, n), float("-inf")).triu(1)[None, None]}


class Layer3(nn.Module):
    """The first layer of EAGLE-3."""

    def __init__(self, config: Any, norm_before_residual: bool) -> None:
        super().__init__()
        dim = config.hidden_size
        attention = Qwen3Attention if config.model_type == "qwen3" else LlamaAttention
        self.self_attn: Any = attention(config, 0)
        for name in ("q_proj", "k_proj", "v_proj"):
            old = getattr(self.self_attn, name)
            setattr(self.self_attn, name, nn.Linear(2 * dim, old.out_features, bias=old.bias is not None))
        self.mlp: Any = (Qwen3MLP if config.model_type == "qwen3" else LlamaMLP)(config)
        self.hidden_norm = LlamaRMSNorm(dim, config.rms_norm_eps)
        self.input_layernorm = LlamaRMSNorm(dim, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(dim, config.rms_norm_eps)
        self.norm_before_residual = norm_before_residual

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor, rotations: Any) -> torch.Tensor:
        a, b = self.input_layernorm(embedded), self.hidden_norm(hidden)
        wide = torch.cat((a, b), dim=-1)[None]
        seen = self.self_attn(wide, position_embeddings=rotations, **whole_text(len(hidden)))[0][0]
        x = (b if self.norm_before_residual else hidden) + seen
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Head3(nn.Module):
    """EAGLE-3 by the names of its files; `layers` that follow the first are Llama's."""

    def __init__(self, config: Any, *, taps: int = 3, vocab: int = VOCAB, **variant: Any) -> None:
        super().__init__()
        self.variant = variant
        self.fc = nn.Linear(taps * DIM, DIM, bias=False)
        self.midlayer = Layer3(config, variant.get("norm_before_residual", False))
        self.more = nn.ModuleList(LlamaDecoderLayer(config, 1) for _ in range(config.num_hidden_layers - 1))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, vocab, bias=False)
        if variant.get("norm_before_fc"):
            self.input_norm = LlamaRMSNorm(taps * DIM, config.rms_norm_eps)
        if variant.get("fc_norm"):
            self.fc_norm = nn.ModuleList(LlamaRMSNorm(DIM, config.rms_norm_eps) for _ in range(taps))
        if variant.get("own_embedding"):
            self.embed_tokens = nn.Embedding(VOCAB, config.hidden_size)
        self.rotary = LlamaRotaryEmbedding(config)

    def tensors(self, first: str) -> dict[str, torch.Tensor]:
        found = {}
        for name, tensor in self.state_dict().items():
            name = name.replace("midlayer.", first)
            for index in range(len(self.more)):
                name = name.replace(f"more.{index}.", f"layers.{index + 1}.")
            found |= {} if name.startswith("rotary") else {name: tensor}
        return found

    def combine(self, taps: list[torch.Tensor]) -> torch.Tensor:
        if self.variant.get("fc_norm"):
            taps = [norm(tap) for norm, tap in zip(self.fc_norm, taps, strict=True)]
        wide = torch.cat(taps, dim=-1)
        out: torch.Tensor = self.fc(self.input_norm(wide) if self.variant.get("norm_before_fc") else wide)
        return out

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        rotations = self.rotary(hidden[None], torch.arange(len(hidden))[None])
        x = self.midlayer(embedded, hidden, rotations)
        for layer in self.more:
            out = layer(x[None], position_embeddings=rotations, **whole_text(len(x)))
            x = (out[0] if isinstance(out, tuple) else out)[0]
        return self.norm(x) if self.variant.get("norm_output") else x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lm_head(hidden if self.variant.get("norm_output") else self.norm(hidden))
        return out


class Eagle3(DraftHeadCases):
    """A head in one of the formats; `inputs` are the target's layers whose inputs it reads."""

    speculator = "eagle"
    family = "LlamaForCausalLM"
    layer: ClassVar[str] = "llama"
    head_layers: ClassVar[int] = 1
    inputs: ClassVar[tuple[int, ...]] = (2, 3, 3)
    vocab: ClassVar[int] = VOCAB
    variant: ClassVar[dict[str, Any]] = {}
    first: ClassVar[str] = "midlayer."

    def options_for(self, folder: Path) -> dict[str, Any]:
        return {"draft_model_path": str(folder / "head")}

    def head(self) -> Head3:
        made = {**SIZES, "num_hidden_layers": self.head_layers, "attn_implementation": "eager"}
        config = (Qwen3Config if self.layer == "qwen3" else LlamaConfig)(**made)
        head = Head3(config, taps=len(self.inputs), vocab=self.vocab, **self.variant)
        randomised(head)
        return head

    def differences(self) -> torch.Tensor:
        return torch.arange(self.vocab) * 2 - torch.arange(self.vocab)  # every other token

    def config(self) -> dict[str, Any]:
        raise NotImplementedError

    def write_model(self, folder: Path) -> None:
        write_target(folder, self.family)
        tensors = self.head().tensors(self.first)
        if self.vocab != VOCAB:
            kept = torch.zeros(VOCAB, dtype=torch.bool)
            kept[torch.arange(self.vocab) * 2] = True
            tensors |= {"d2t": self.differences(), "t2d": kept}
        write_head(folder / "head", self.config(), tensors)

    def reference(self, folder: Path) -> HeadReference:
        target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        head = self.head()

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            found = head.logits(hidden)
            if self.vocab == VOCAB:
                return found
            wide = torch.full((len(found), VOCAB), float("-inf"))
            wide[:, torch.arange(self.vocab) + self.differences()] = found
            return wide

        embed = head.embed_tokens if self.variant.get("own_embedding") else target.model.embed_tokens
        return HeadReference(
            states=lambda ids: target(ids, output_hidden_states=True).hidden_states,
            combine=lambda states: head.combine([states[index] for index in self.inputs]),
            forward=lambda ids, hidden: head(embed(ids), hidden),
            logits=logits,
        )


class RawFormat(Eagle3):
    """SafeAILab's, with a reduced vocabulary."""

    vocab = 40

    def config(self) -> dict[str, Any]:
        return {
            **SIZES,
            "architectures": ["LlamaForCausalLMEagle3"],
            "model_type": "llama",
            "num_hidden_layers": 1,
            "draft_vocab_size": self.vocab,
            "torch_dtype": "float32",
        }


class TestRawFormat(RawFormat, DraftHeadChecks):
    pass


class SpeculatorsFormat(Eagle3):
    """RedHatAI's, a Qwen 3 layer on a Qwen 3 target; the residual is normed where nothing else is said."""

    family = "Qwen3ForCausalLM"
    layer = "qwen3"
    vocab = 40
    variant: ClassVar[dict[str, Any]] = {"norm_before_residual": True, "own_embedding": True}
    first = "layers.0."

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["Eagle3Speculator"],
            "speculators_model_type": "eagle3",
            "speculators_version": "0.1.0.dev14",
            "draft_vocab_size": self.vocab,
            "target_hidden_size": None,
            "transformer_layer_config": {**SIZES, "model_type": self.layer, "num_hidden_layers": 1},
            "speculators_config": {
                "algorithm": "eagle3",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
                "verifier": {"name_or_path": "acme/target", "architectures": [self.family]},
            },
        }


class TestSpeculatorsFormat(SpeculatorsFormat, DraftHeadQuirkChecks):
    pass


class TestNorms(SpeculatorsFormat, DraftHeadChecks):
    """All of them, other taps, and a second layer."""

    layer = "llama"
    head_layers = 2
    inputs = (5, 1, 2, 2)
    vocab = VOCAB
    variant: ClassVar[dict[str, Any]] = {"norm_before_fc": True, "fc_norm": True, "norm_output": True}

    def config(self) -> dict[str, Any]:
        flags = {**self.variant, "norm_before_residual": False}
        return {**super().config(), **flags, "eagle_aux_hidden_state_layer_ids": list(self.inputs)}


class TestOutputsOfLayers(RawFormat, DraftHeadQuirkChecks):
    """In the raw format ids name outputs."""

    inputs = (1, 3, 5)

    def config(self) -> dict[str, Any]:
        ids = {"eagle_aux_hidden_state_layer_ids": [0, 2, 4], "use_aux_hidden_state": True}
        return {**super().config(), "eagle_config": ids}


class TestQwen3InRawFormat(RawFormat, DraftHeadQuirkChecks):
    """A Llama layer on a Qwen 3 target, as SpecForge and AngelSlim train them, without an embedding."""

    family = "Qwen3ForCausalLM"


class TestLlamaInSpeculatorsFormat(SpeculatorsFormat, DraftHeadQuirkChecks):
    family = "LlamaForCausalLM"
    layer = "llama"
    variant: ClassVar[dict[str, Any]] = {"norm_before_residual": True}


class EachNorm(SpeculatorsFormat, DraftHeadQuirkChecks):
    """One variant by itself, said at the top of the config; the residual is plain."""

    layer = "llama"
    vocab = VOCAB

    def config(self) -> dict[str, Any]:
        return {**super().config(), "norm_before_residual": False, **self.variant}


class TestNormBeforeFc(EachNorm):
    variant: ClassVar[dict[str, Any]] = {"norm_before_fc": True}


class TestNormOfEachTap(EachNorm):
    variant: ClassVar[dict[str, Any]] = {"fc_norm": True}


class TestNormOfTheOutput(EachNorm):
    variant: ClassVar[dict[str, Any]] = {"norm_output": True}


class Head1(nn.Module):
    """EAGLE-1: no norm before the layer, none behind it."""

    def __init__(self, config: Any, bias: bool, own_embedding: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * DIM, DIM, bias=bias)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, 0)])
        self.layers[0].input_layernorm = nn.Identity()
        if own_embedding:
            self.embed_tokens = nn.Embedding(VOCAB, DIM)
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = self.fc(torch.cat((embedded, hidden), dim=-1))[None]
        rotations = self.rotary(x, torch.arange(len(hidden))[None])
        out = self.layers[0](x, position_embeddings=rotations, **whole_text(len(hidden)))
        found: torch.Tensor = (out[0] if isinstance(out, tuple) else out)[0]
        return found


class Eagle1(DraftHeadCases):
    """With a bias and the target's embedding."""

    speculator = "eagle"
    bias: ClassVar[bool] = True
    own_embedding: ClassVar[bool] = False
    architecture: ClassVar[str] = "LlamaForCausalLM"

    def options_for(self, folder: Path) -> dict[str, Any]:
        return {"draft_model_path": str(folder / "head")}

    def head(self) -> Head1:
        config = LlamaConfig(**SIZES, num_hidden_layers=1, attn_implementation="eager")
        head = Head1(config, self.bias, self.own_embedding)
        randomised(head)
        return head

    def write_model(self, folder: Path) -> None:
        write_target(folder)
        tensors = {name: t for name, t in self.head().state_dict().items() if not name.startswith("rotary")}
        config = {**SIZES, "architectures": [self.architecture], "model_type": "llama", "num_hidden_layers": 1}
        write_head(folder / "head", config, tensors)

    def reference(self, folder: Path) -> HeadReference:
        target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        head = self.head()
        embed = head.embed_tokens if self.own_embedding else target.model.embed_tokens
        return HeadReference(
            states=lambda ids: target(ids, output_hidden_states=True).hidden_states,
            combine=lambda states: states[-1],
            forward=lambda ids, hidden: head(embed(ids), hidden),
            logits=target.lm_head,
        )


class TestEagle1(Eagle1, DraftHeadChecks):
    pass


class TestEagle1WithAnEmbedding(Eagle1, DraftHeadQuirkChecks):
    bias = False
    own_embedding = True
    architecture = "EagleLlamaForCausalLM"


class TestHass(Eagle1, DraftHeadQuirkChecks):
    """`add_para_norm`: what is joined is normed; with the names that `speculators` once wrote."""

    bias = False

    def head(self) -> Head1:
        head: Any = super().head()
        head.embedding_layernorm = LlamaRMSNorm(DIM, SIZES["rms_norm_eps"])
        head.hidden_states_layernorm = LlamaRMSNorm(DIM, SIZES["rms_norm_eps"])
        randomised(head)
        found: Head1 = head
        return found

    def write_model(self, folder: Path) -> None:
        write_target(folder)
        names = [("fc.", "fusion_fc."), ("layers.0.", "transformer.")]
        names.append(("hidden_states_layernorm.", "pre_lm_head_layernorm."))
        tensors = {}
        for name, tensor in self.head().state_dict().items():
            for ours, theirs in names:
                name = name.replace(ours, theirs)
            tensors |= {} if name.startswith("rotary") else {name: tensor}
        config = {**SIZES, "architectures": [self.architecture], "model_type": "llama", "num_hidden_layers": 1}
        write_head(folder / "head", {**config, "add_para_norm": True}, tensors)

    def reference(self, folder: Path) -> HeadReference:
        head: Any = self.head()
        plain = head.forward
        head.forward = lambda e, h: plain(head.embedding_layernorm(e), head.hidden_states_layernorm(h))
        target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return HeadReference(
            states=lambda ids: target(ids, output_hidden_states=True).hidden_states,
            combine=lambda states: states[-1],
            forward=lambda ids, hidden: head(target.model.embed_tokens(ids), hidden),
            logits=target.lm_head,
        )


NARROW = 32


class NarrowHead(Head3):
    """A head of another width than its target, whose taps are `target_hidden_size` wide."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, own_embedding=True)
        self.fc = nn.Linear(3 * DIM, NARROW, bias=False)


class TestOtherWidth(SpeculatorsFormat, DraftHeadQuirkChecks):
    """`target_hidden_size`: its own embedding and head are needed then."""

    family = "LlamaForCausalLM"
    layer = "llama"
    vocab = VOCAB
    variant: ClassVar[dict[str, Any]] = {"own_embedding": True}

    def head(self) -> Head3:
        sizes = {**SIZES, "hidden_size": NARROW, "num_hidden_layers": 1, "attn_implementation": "eager"}
        head = NarrowHead(LlamaConfig(**sizes))
        randomised(head)
        return head

    def config(self) -> dict[str, Any]:
        found = super().config()
        layer = {**found["transformer_layer_config"], "hidden_size": NARROW}
        return {**found, "transformer_layer_config": layer, "target_hidden_size": DIM, "norm_before_residual": False}


def raw_config(**changes: Any) -> dict[str, Any]:
    return {
        **SIZES,
        "architectures": ["LlamaForCausalLMEagle3"],
        "num_hidden_layers": 1,
        "model_type": "llama",
        **changes,
    }


def head3(folder: Path, config: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> Path:
    """A head in the raw format, with other tensors in place of some."""
    made = Head3(LlamaConfig(**SIZES, num_hidden_layers=1, attn_implementation="eager"))
    randomised(made)
    found = {**made.tensors("midlayer."), **tensors}
    write_head(folder, config or raw_config(), {name: t for name, t in found.items() if t is not None})
    return folder


def engine(folder: Path, host: Host, head: Path | None, **options: Any) -> Any:
    chosen = {} if head is None else {"speculative_method": "eagle", "draft_model_path": str(head)}
    return Served(folder, host, **{"max_length": 128, **chosen, **options}).engine


def texts(made: Any, prompts: list[list[int]], tokens: int = 24, **fields: Any) -> list[list[int]]:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, **{"fields": GREEDY, **fields})
    for index, prompt in enumerate(prompts):
        made.add(Request(id=str(index), prompt=tuple(prompt), params=params))
    found: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
    while made.busy:
        for output in made.next_outputs():
            assert output.error is None, output.error
            found[output.id] += output.tokens
        made.check()
    return list(found.values())


PREEMPTING = {"max_batch_size": 6, "pages": 14}  # pages for two of six sequences
PROMPTS = [[(7 * index + 3 * i) % 90 + 3 for i in range(5 + 4 * index)] for index in range(16)]


@pytest.mark.parametrize("seeded", [{}, {"seed": 5, "fields": {"temperature": {"temperature": 0.9}}}])
@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_size": 16},
        PREEMPTING,
        {"max_batch_input_tokens": 5, "enable_prefix_caching": False},
        {"use_subgraphs": False, "adaptive_speculation": True},
    ],
)
def test_sixteen_texts_with_preemption_and_random_lengths(
    options: dict[str, Any],
    seeded: dict[str, Any],
    plugin_host: Callable[..., Host],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if options == PREEMPTING:
        few_pages(monkeypatch, options["pages"])
    preempting, options = options == PREEMPTING, {k: v for k, v in options.items() if k != "pages"}
    write_target(tmp_path / "target")
    head = head3(tmp_path / "head")
    expected = texts(engine(tmp_path / "target", plugin_host(), None, **options), PROMPTS, 40, **seeded)
    made = engine(tmp_path / "target", plugin_host(), head, **options)
    lengths = np.random.default_rng(3)
    propose = made._drafting._drafter.propose

    def some(step: DraftStep) -> Any:
        np.minimum(step.wanted, lengths.integers(0, 6, len(step.wanted)), out=step.wanted)
        return propose(step)

    made._drafting._drafter.propose = some
    for _ in range(2):
        assert texts(made, PROMPTS, 40, **seeded) == expected
    assert made.stats().draft_tokens > 0
    assert (made.stats().preemptions > 0) == preempting


@pytest.mark.parametrize(
    "family",
    [
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Phi3ForCausalLM",
        "GraniteForCausalLM",
        "MixtralForCausalLM",
        "GptOssForCausalLM",
    ],
)
def test_targets_of_other_families(family: str, plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    config = tiny_config(family, architectures=[family])
    target = randomised(ArchitectureChecks.reference(config))
    target.save_pretrained(tmp_path / "target")  # type: ignore[operator]
    head = head3(tmp_path / "head", raw_config(eagle_config={"eagle_aux_hidden_state_layer_ids": [0, 1, 1]}))
    expected = texts(engine(tmp_path / "target", plugin_host(), None), PROMPTS[:4])
    made = engine(tmp_path / "target", plugin_host(), head)
    assert texts(made, PROMPTS[:4]) == expected
    assert made.stats().draft_tokens > 0


def test_a_head_that_is_the_target_has_nearly_all_drafts_accepted(
    plugin_host: Callable[..., Host], tmp_path: Path
) -> None:
    """A target of one layer, and that layer as EAGLE-1 over the embedding alone: all it misses is the first token.

    With tokens or positions that are one off, nearly none would be.
    """
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"], num_hidden_layers=1)
    target: Any = randomised(ArchitectureChecks.reference(config))
    with torch.no_grad():
        target.model.embed_tokens.weight[1].zero_()  # so that prompts begin with a token of which little is seen
    target.save_pretrained(tmp_path / "target")
    tensors = {name.removeprefix("model."): t for name, t in target.state_dict().items() if name != "lm_head.weight"}
    tensors["fc.weight"] = torch.cat((torch.eye(DIM), torch.zeros(DIM, DIM)), dim=1)
    raw = json.loads((tmp_path / "target" / "config.json").read_text())
    write_head(tmp_path / "head", raw, tensors)
    made = engine(tmp_path / "target", plugin_host(), tmp_path / "head")
    texts(made, [[1, *prompt] for prompt in PROMPTS[6:]], 40)
    stats = made.stats()
    assert stats.draft_tokens > 200
    assert stats.accepted_tokens > 0.95 * stats.draft_tokens


def taps(*ids: int) -> dict[str, Any]:
    return {"eagle_config": {"eagle_aux_hidden_state_layer_ids": list(ids)}}


@pytest.mark.parametrize(
    ("message", "config", "tensors"),
    [
        ("its vocabulary is 90, that of the target 96", {"vocab_size": 90}, {}),
        ("reads outputs of layers 1, 9, which a target of 6 layers does not have", taps(1, 9), {}),
        ("its input of fc is 192, that of the target 128", taps(1, 2), {}),
        ("drafts by the method 'dflash', which is not known", {"speculators_model_type": "dflash"}, {}),
        ("sets fc_norm, but the checkpoint has no fc_norm.0.weight", {"fc_norm": True}, {}),
        ("has a vocabulary of 40 tokens, but no d2t", {}, {"lm_head.weight": torch.zeros(40, DIM)}),
        ("d2t of .* does not lead from 96 tokens", {}, {"d2t": torch.arange(96)}),
        ("1 missing from the checkpoint: norm.weight", {}, {"norm.weight": None}),
        ("1 in the checkpoint but not in the model: layers.0.gate.weight", {}, {"layers.0.gate.weight": torch.ones(1)}),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    message: str, config: Any, tensors: Any, plugin_host: Callable[..., Host], tmp_path: Path
) -> None:
    write_target(tmp_path / "target")
    with pytest.raises(ModelError, match=message):
        engine(tmp_path / "target", plugin_host(), head3(tmp_path / "head", raw_config(**config), **tensors))


def test_a_head_of_another_size_is_refused(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    write_target(tmp_path / "target")
    narrow = {**SIZES, "hidden_size": 32, "architectures": ["LlamaForCausalLM"]}
    write_head(
        tmp_path / "head", narrow, {**Head1(LlamaConfig(**SIZES, num_hidden_layers=1), True, False).state_dict()}
    )
    with pytest.raises(ModelError, match="its hidden size is 32, that of the target 64"):
        engine(tmp_path / "target", plugin_host(), tmp_path / "head")


def test_what_is_no_head_is_refused(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    write_target(tmp_path / "target")
    with pytest.raises(ModelError, match=r"is no EAGLE head: it has no fc.weight"):
        engine(tmp_path / "target", plugin_host(), tmp_path / "target")
    with pytest.raises(ModelError, match="there is no folder"):
        engine(tmp_path / "target", plugin_host(), tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"eagle needs --draft-model-path, and .*/target brings none; give it"):
        Served(tmp_path / "target", plugin_host(), speculative_method="eagle")
