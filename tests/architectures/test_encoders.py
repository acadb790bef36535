"""BERT and its relatives, and Qwen 3 for embeddings, against transformers."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    MPNetConfig,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from maxserve.architectures.bert import config as bert_config
from maxserve.architectures.bert import scoring_config
from maxserve.core.interfaces.errors import ModelError
from maxserve.testing.encoder import EncoderChecks

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 40,
}


def bert(**changes: Any) -> BertConfig:
    return BertConfig(**{**SIZES, **changes})


class TestBert(EncoderChecks):
    architecture = "BertModel"
    pairs = True
    hf_configs: ClassVar = {
        "plain": bert(),
        "another activation": bert(hidden_act="gelu_new", layer_norm_eps=1e-5),
        "relu": bert(hidden_act="relu"),
    }


class TestBertAsLanguageModel(EncoderChecks):
    """Checkpoints of masked language models name everything below `bert`, and have a head that is not needed."""

    architecture = "BertModel"
    pairs = True
    hf_configs: ClassVar = {"plain": bert()}

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        model: nn.Module = AutoModelForMaskedLM.from_config(hf_config, attn_implementation="eager")
        return model


class TestRoberta(EncoderChecks):
    architecture = "RobertaModel"
    hf_configs: ClassVar = {
        "plain": RobertaConfig(**SIZES, type_vocab_size=1),
        "another pad token": RobertaConfig(**SIZES, pad_token_id=3),
        "XLM": XLMRobertaConfig(**SIZES),
    }


class TestMPNet(EncoderChecks):
    architecture = "MPNetModel"
    hf_configs: ClassVar = {
        "plain": MPNetConfig(**SIZES),
        "beyond the farthest distance": MPNetConfig(**{**SIZES, "max_position_embeddings": 300}),
    }


class TestMPNetAsLanguageModel(EncoderChecks):
    architecture = "MPNetModel"
    hf_configs: ClassVar = {"plain": MPNetConfig(**SIZES)}

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        model: nn.Module = AutoModelForMaskedLM.from_config(hf_config)
        return model


class TestQwen3(EncoderChecks):
    """The checkpoint has neither a head nor names below `model`."""

    architecture = "Qwen3Model"
    hf_configs: ClassVar = {
        "plain": Qwen3Config(**SIZES, num_key_value_heads=3, head_dim=16),
        "windows": Qwen3Config(
            **SIZES,
            num_key_value_heads=2,
            head_dim=16,
            use_sliding_window=True,
            sliding_window=7,
            max_window_layers=1,
        ),
    }


class _Scorer(EncoderChecks):  # names without "Test" are not collected
    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        model: nn.Module = AutoModelForSequenceClassification.from_config(hf_config, attn_implementation="eager")
        return model


class TestBertScorer(_Scorer):
    architecture = "BertForSequenceClassification"
    pairs = True
    hf_configs: ClassVar = {"plain": bert(num_labels=1)}


class TestRobertaScorer(_Scorer):
    architecture = "RobertaForSequenceClassification"
    hf_configs: ClassVar = {
        "plain": RobertaConfig(**SIZES, num_labels=1),
        "XLM": XLMRobertaConfig(**SIZES, num_labels=1),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 50}, "hidden_size 50 is no multiple of num_attention_heads 6"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not known; known: gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "is_decoder is set"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many', but must be a positive whole number"),
    ],
)
def test_what_is_not_known_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        bert_config({**SIZES, **changes})


def test_a_classifier_is_no_scorer() -> None:
    with pytest.raises(ModelError, match="has 3 labels, so it is a classifier"):
        scoring_config({**SIZES, "id2label": {"0": "a", "1": "b", "2": "c"}})
