"""The fallback against transformers: families beside those of test_every_architecture.py, and what it refuses."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import torch
import transformers
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.location import ModelFolder
from maxserve.plugins.transformers.model import Model
from maxserve.plugins.transformers.spec import Source, read, spec_of
from maxserve.testing.architecture import Case, QuirkChecks, randomised

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 20,
    "factor": 3.2,
    "short_factor": [1.0, 1.2, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}


def tiny(family: str, sizes: dict[str, Any] = SIZES, **more: Any) -> Any:
    return getattr(transformers, f"{family}Config")(**{**sizes, **more})


# The last three have architectures of their own, and are run by transformers' classes here all the same.
FAMILIES: dict[str, Any] = {
    "Cohere2": tiny("Cohere2", sliding_window=7, head_dim=8),
    "Glm": tiny("Glm", head_dim=8, partial_rotary_factor=0.5),
    "Ernie4_5": tiny("Ernie4_5", head_dim=8),
    "SeedOss": tiny("SeedOss", head_dim=8),
    "HunYuanDenseV1": tiny("HunYuanDenseV1", head_dim=8),
    "Olmoe": tiny("Olmoe", **EXPERTS),
    "Qwen2Moe": tiny("Qwen2Moe", **EXPERTS, shared_expert_intermediate_size=32),
    "Dots1": tiny(
        "Dots1",
        head_dim=8,
        moe_intermediate_size=24,
        n_routed_experts=6,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        norm_topk_prob=True,
    ),
    "BitNet": tiny("BitNet"),
    "OPT": tiny("OPT", OLD, ffn_dim=64, word_embed_proj_dim=24),
    "Phimoe, longrope": tiny(
        "Phimoe", num_local_experts=4, rope_parameters=LONGROPE | {"short_mscale": 1.0, "long_mscale": 1.0}
    ),
    "Llama": tiny("Llama", rope_parameters=LONGROPE),
    "Gemma2": tiny("Gemma2", head_dim=8, sliding_window=7, query_pre_attn_scalar=12),
    "GptOss": tiny("GptOss", head_dim=8, sliding_window=7, num_local_experts=4, num_experts_per_tok=2),
}


class TestFallback(QuirkChecks):
    architecture = "transformers"
    hf_configs: ClassVar = FAMILIES

    def check_texts(self, case: Case) -> None:
        """By the fallback also where another architecture is named after the class."""
        file = case.folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": ["transformers"]}))
        super().check_texts(case)


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(family: str, raw: dict[str, Any]) -> str:
    """Why a model of that class is not served."""
    with pytest.raises(ModelError) as caught:
        read(ModelFolder(path="somewhere", config={"architectures": [family], **raw}))
    return str(caught.value)


SMALL: dict[str, Any] = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}


@pytest.mark.parametrize(
    ("family", "raw", "reason"),
    [
        ("MambaForCausalLM", SMALL, "keeps a state besides keys and values"),
        ("JambaForCausalLM", {**SMALL, "num_key_value_heads": 6}, "keeps a state besides keys and values"),
        ("BloomForCausalLM", {"hidden_size": 48, "n_layer": 2, "n_head": 6}, "does not say how many positions"),
        ("MptForCausalLM", {"d_model": 48, "n_layers": 2, "n_heads": 6}, "takes no positions"),
        ("XGLMForCausalLM", {"d_model": 48, "num_layers": 2, "attention_heads": 6}, "does not attend through"),
        ("BertLMHeadModel", SMALL, "does not look back at the last tokens"),
        ("GPTNeoForCausalLM", {"hidden_size": 48, "num_heads": 6}, "cannot make a GPTNeoForCausalLM"),
        ("LlamaForCausalLM", {**SMALL, "is_encoder_decoder": True}, "an encoder beside its decoder"),
        ("LlamaForCausalLM", {**SMALL, "hidden_size": 50}, "does not take this config.json"),
    ],
)
def test_models_that_are_more_than_attention_are_refused(family: str, raw: dict[str, Any], reason: str) -> None:
    assert reason in refused(family, raw)


LLAMA = {**SMALL, "num_key_value_heads": 3, "intermediate_size": 64, "max_position_embeddings": 64}


class Shifted(transformers.LlamaForCausalLM):
    """Mixes each token with the one before it, outside of attention."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        embeds = self.get_input_embeddings()(input_ids)
        return super().forward(inputs_embeds=embeds + embeds.roll(1, dims=1), position_ids=position_ids, **rest)


class Counting(transformers.LlamaForCausalLM):
    """Numbers the tokens of a call itself."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        return super().forward(input_ids, **rest)


class Peeking(transformers.LlamaForCausalLM):
    """Its head looks at more than the hidden states."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        out = super().forward(input_ids, position_ids=position_ids, **rest)
        out.logits = out.logits * (1 + input_ids.float().mean())
        return out


class Sharpening(transformers.LlamaForCausalLM):
    """Scales the scores of a longer call otherwise."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        for layer in self.model.layers:
            layer.self_attn.scaling = 0.5 if input_ids.shape[1] < 8 else 0.25
        return super().forward(input_ids, position_ids=position_ids, **rest)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Shifted, "computes other logits"),
        (Counting, "computes other logits"),
        (Peeking, "computes other logits"),
        (Sharpening, "attends by other rules"),
        (transformers.LlamaForCausalLM, None),
    ],
)
def test_a_class_that_computes_otherwise_side_by_side_does_not_serve(cls: Any, reason: str | None) -> None:
    source = Source(cls=cls, config=transformers.LlamaConfig(**LLAMA))
    model = Model(spec_of(source))
    model.take(randomised(source.make()))
    if reason is None:
        model.prepare()
        return
    with pytest.raises(ModelError, match=reason):
        model.prepare()


class Masking(transformers.LlamaForCausalLM):
    """Makes masks of its own."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        length = input_ids.shape[1]
        rest["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool, device=input_ids.device).tril()
        return super().forward(input_ids, position_ids=position_ids, **rest)


class Headless(transformers.LlamaForCausalLM):
    """Has no trunk: its layers are called one by one."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        hidden = self.model.embed_tokens(input_ids)
        rotations = self.model.rotary_emb(hidden, position_ids)
        mask = transformers.masking_utils.create_causal_mask(self.config, hidden, rest["attention_mask"], None)
        for layer in self.model.layers:
            hidden = layer(hidden, position_embeddings=rotations, attention_mask=mask)
        return transformers.modeling_outputs.CausalLMOutputWithPast(logits=self.lm_head(hidden))


@pytest.mark.parametrize(
    ("cls", "reason"), [(Masking, "makes a mask of its own"), (Headless, "not made of a trunk of layers and a head")]
)
def test_a_class_that_cannot_be_looked_into_is_refused(cls: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        spec_of(Source(cls=cls, config=transformers.LlamaConfig(**LLAMA)))
