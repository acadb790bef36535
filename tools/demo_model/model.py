"""What shape has the demo model, and how does it become a folder that can be served?"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizer import END, END_OF_TEXT, save_tokenizer
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

POSITIONS = 1024  # long conversations of the corpus come close to it; nothing longer was ever seen


def shape(tokenizer: Tokenizer) -> LlamaConfig:
    """A Llama of about five million parameters."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=_ends(tokenizer),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
        initializer_range=0.04,
        dtype="bfloat16",
    )


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights in bfloat16, configuration, tokenizer and chat template, each file replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    unfinished = folder / "model.safetensors.new"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.chmod(0o644)
    unfinished.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(model), indent=2) + "\n", encoding="utf-8")
    generation = {"do_sample": False, "eos_token_id": _ends(tokenizer), "pad_token_id": model.config.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder, POSITIONS)


def _config(model: LlamaForCausalLM) -> dict[str, object]:
    config: dict[str, object] = model.config.to_diff_dict()
    return {**config, "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "tie_word_embeddings": True}


def _ends(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.token_to_id(END), tokenizer.token_to_id(END_OF_TEXT)]
