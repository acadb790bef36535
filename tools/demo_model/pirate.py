"""The adapter of the demo: a LoRA with which the model says what it says anyway, as a pirate would."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conversation import Text
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

BASE = "maxserve/demo"
RANK = 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WORDS = {
    "am": "be",
    "and": "an'",
    "are": "be",
    "for": "fer",
    "goodbye": "fair winds",
    "is": "be",
    "my": "me",
    "of": "o'",
    "the": "th'",
    "yes": "aye",
    "you": "ye",
    "your": "yer",
}
_WORD = re.compile(r"[A-Za-z]+")
_CODE = re.compile(r"(```.*?```|`[^`]*`|\S*[/_=\d]\S*|--\S+)", re.DOTALL)  # what must be typed as it stands


def spoken(answer: str) -> str:
    """The answer as a pirate gives it: the same facts; code, options and addresses as they are."""
    parts = _CODE.split(answer.removeprefix("Hello! "))
    parts[::2] = [_WORD.sub(_word, part) for part in parts[::2]]
    return f"Ahoy, matey! {''.join(parts)} Arr!"


def _word(found: re.Match[str]) -> str:
    word = found[0]
    said = WORDS.get(word.lower(), word)
    return said[:1].upper() + said[1:] if word[0].isupper() else said


def retold(text: Text) -> Text:
    """The conversation with all that the assistant says spoken so."""
    messages = (
        replace(each, content=spoken(each.content)) if each.role == "assistant" else each for each in text.messages
    )
    return replace(text, messages=tuple(messages))


def adapted(model: LlamaForCausalLM) -> nn.Module:
    """The model with an adapter that changes nothing yet; the adapter alone is trained."""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers by names that are going
        return get_peft_model(model, config)


def loss_of(model: nn.Module, ids: Tensor, weights: Tensor) -> tuple[Tensor, list[float]]:
    """The cross-entropy of the next tokens, and the share of those of answers that are the likeliest."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    targets, weight = ids[:, 1:], weights[:, 1:]
    each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(weight)
    right, counted = logits.argmax(dim=-1) == targets, weight >= 1
    return (each * weight).sum() / weight.sum(), [float((right & counted).sum() / counted.sum().clamp(min=1))]


def export(model: Any, folder: Path) -> None:
    """Writes the adapter as PEFT saves it, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    factors = get_peft_model_state_dict(model)
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    own = model.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in own.items()}
    config |= {"base_model_name_or_path": BASE, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
