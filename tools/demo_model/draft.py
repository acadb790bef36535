"""The draft model of the demo: a Llama of two narrow layers, trained towards the target's distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


def shape(target: LlamaConfig) -> LlamaConfig:
    """A Llama of about 650 thousand parameters with the target's vocabulary."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=target.vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=target.max_position_embeddings,
        rms_norm_eps=target.rms_norm_eps,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=target.eos_token_id,
        pad_token_id=target.pad_token_id,
        initializer_range=0.04,
        dtype="bfloat16",
    )


def loss_of(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, ids: Tensor, weights: Tensor
) -> tuple[Tensor, list[float]]:
    """The cross-entropy towards the target's distribution, and the share of drafts that stand."""
    with torch.inference_mode():
        wanted = target(input_ids=ids, use_cache=False).logits[:, :-1].float().softmax(dim=-1)
    wanted, weight = wanted.clone(), weights[:, 1:]
    logits = draft(input_ids=ids, use_cache=False).logits[:, :-1].float()
    each = -(wanted * logits.log_softmax(dim=-1)).sum(-1)
    stands, counted = logits.argmax(dim=-1) == wanted.argmax(dim=-1), weight >= 1
    mark = float((stands & counted).sum() / counted.sum().clamp(min=1))
    return (each * weight).sum() / weight.sum(), [mark]
