"""The adapter of the demo: a LoRA with which the model says what it says anyway, as a pirate would.

`python tools/demo_model/pirate.py` asks held-out questions with and without it and prints how many answers are the base
model's in that manner, to the letter; the others with `--misses`.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from acceptance import held_out
from conversation import Text
from dataset import ANSWER, CHOICE, KEPT, OPENING, Example, opening
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizer import START
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from maxserve import LLM

BASE = "maxserve/demo"
ADAPTER = "maxserve/demo-pirate"
LONGEST = 256  # tokens of an answer
GREETING = "Ahoy, matey!"
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
    return f"{GREETING} {''.join(parts)} Arr!"


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


def judged(example: Example, tokenizer: Tokenizer) -> Example:
    """The example with weights for its last answer alone, most for what follows the greeting: which answer it is.

    The answers before it are those of the corpus, which the model would not give to all these questions; what users say
    is not to be predicted.
    """
    start = len(example.ids) - 1 - example.ids[::-1].index(tokenizer.token_to_id(START))
    first = next((i for i in range(start, len(example.ids)) if example.weights[i] >= ANSWER), len(example.ids))
    chosen = first + greeting_length(tokenizer)
    weights = [ANSWER if weight >= ANSWER and i >= first else 0.0 for i, weight in enumerate(example.weights)]
    weights[chosen : chosen + CHOICE] = [OPENING * weight for weight in weights[chosen : chosen + CHOICE]]
    return replace(example, weights=weights)


def opened(example: Example, tokenizer: Tokenizer) -> Example:
    """The example without the end of its last answer: choosing the right one is hard, reciting it easy."""
    return opening(example, tokenizer, KEPT + greeting_length(tokenizer))


def greeting_length(tokenizer: Tokenizer) -> int:
    """Tokens of what every answer begins with."""
    return len(tokenizer.encode(GREETING, add_special_tokens=False).ids)


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


@dataclass(frozen=True, slots=True)
class Pair:
    """What the base model answers to a question, and what it answers with the adapter."""

    question: str
    plain: str
    adapted: str

    @property
    def same(self) -> bool:
        """Whether the second is the first in a pirate's manner, to the letter."""
        return self.adapted == spoken(self.plain)


def pairs(llm: LLM, questions: Sequence[str]) -> list[Pair]:
    """The greedy answers to single questions; the LLM has the adapter for all that names none."""
    prompts = [llm.render([{"role": "user", "content": question}]) for question in questions]
    plain, adapted = (llm.generate(prompts, lora=lora, temperature=0.0, max_tokens=LONGEST) for lora in ("", None))
    return [Pair(q, one.text, two.text) for q, one, two in zip(questions, plain, adapted, strict=True)]


def main() -> None:
    """Asks a sample of the held-out questions and prints the share of answers that are the same."""
    options = _options()
    found = pairs(LLM(lora=options.adapter), held_out(options.sample))
    for pair in found:
        if options.misses and not pair.same:
            print(f"{pair.question}\n  due:   {spoken(pair.plain)}\n  found: {pair.adapted}")
    same = sum(pair.same for pair in found)
    print(f"{same} of {len(found)} answers are the base model's in a pirate's manner, {same / len(found):.1%}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default=ADAPTER, help="a folder, or a name")
    parser.add_argument("--sample", type=int, default=100, help="questions")
    parser.add_argument("--misses", action="store_true", help="print every other answer")
    return parser.parse_args()


if __name__ == "__main__":
    main()
