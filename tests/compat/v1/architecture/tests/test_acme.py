"""Acme checkpoints are shaped like Qwen3's, so transformers' Qwen3 is the reference."""

from __future__ import annotations

from transformers import Qwen3Config

from maxserve.testing import ArchitectureChecks


class TestAcme(ArchitectureChecks):
    architecture = "AcmeForCausalLM"
    hf_configs = (
        Qwen3Config(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=128,
            tie_word_embeddings=True,
        ),
    )
