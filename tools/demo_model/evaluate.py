"""How often is the demo model right about questions it has never seen? `python tools/demo_model/evaluate.py`.

An answer is right when it holds every key phrase of its fact. Prints the share by topic (`known` and `fresh` are the
parts of `facts/newcomer.yaml`), and each miss with `--misses`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from corpus import Fact, load
from tokenizer import END, START
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[2]


def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[str]:
    """The greedy answers to single questions, asked side by side."""
    prompts = [f"{START}user\n{question.lower()}{END}\n{START}assistant\n" for question in questions]  # the template
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=160, do_sample=False)
    return list(tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main() -> None:
    """Asks a sample of the held-out paraphrases and every hand-written question, and prints the shares."""
    options = _options()
    torch.set_num_threads(options.threads)
    model = LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    right: dict[str, list[bool]] = defaultdict(list)
    for facts in _parts(_questions(options.sample), 32):
        for (fact, question), said in zip(facts, answer(model, tokenizer, [q for _, q in facts]), strict=True):
            right[fact.topic].append(fact.accepts(said))
            if options.misses and not fact.accepts(said):
                print(f"[{fact.name}] {question}\n    {said}")
    for topic, marks in right.items():
        print(f"{topic:10} {sum(marks):4} of {len(marks):4} right, {sum(marks) / len(marks):.1%}")
    held = [mark for topic, marks in right.items() if topic not in ("known", "fresh") for mark in marks]
    print(f"held-out paraphrases: {sum(held) / len(held):.1%} of {len(held)}")


def _questions(sample: int) -> list[tuple[Fact, str]]:
    """As many held-out questions as asked for, spread evenly over the facts, and all hand-written ones."""
    corpus, rng = load(), Random(1)
    held = [(fact, rng.choice(fact.questions)) for fact in corpus.held_out for _ in range(4)]
    chosen = rng.sample(held, min(sample, len(held)))
    return [*chosen, *((fact, fact.name) for fact in corpus.newcomer)]


def _parts(pairs: list[tuple[Fact, str]], size: int) -> Iterator[list[tuple[Fact, str]]]:
    pairs = sorted(pairs, key=lambda pair: len(pair[1]))  # little padding
    return (pairs[i : i + size] for i in range(0, len(pairs), size))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "plugins" / "demo" / "model")
    parser.add_argument("--sample", type=int, default=600, help="held-out paraphrases to ask")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--misses", action="store_true", help="print every wrong answer")
    return parser.parse_args()


if __name__ == "__main__":
    main()
