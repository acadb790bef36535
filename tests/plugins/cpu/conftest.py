"""A small checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

MODEL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "initializer_range": 0.15,
}


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    """A folder with random weights in bfloat16 and a tokenizer of 128 words."""
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    auto.from_config(AutoConfig.for_model("llama", **MODEL)).bfloat16().save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(128)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    return tmp_path
