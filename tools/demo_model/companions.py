"""Trains what goes with the demo model: `python tools/demo_model/companions.py eagle3`, `draft` or `pirate`.

The target is the model that ships, and stays as it is. What drafts for it learns from batches of which a third are
conversations of the corpus whose last answer is the target's own, since drafts must fit what it says; the adapter
`pirate` learns from such conversations alone, retold. `--resume` goes on from the last state.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import draft
import eagle3
import pirate
import torch
from conversation import Message, Text, Writer
from corpus import Corpus, load
from dataset import ANSWER, CUT, Batch, Example, encode, laid_out
from model import POSITIONS, export
from tokenizer import END_OF_TEXT
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from maxserve import LLM

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "plugins" / "demo"
OWN = 1 / 3  # share of the batches with the target's own answers
LONGEST = 200  # tokens of such an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for."""

    what: str
    steps: int
    tokens: int
    answers: int
    rate: float
    warmup: int
    seed: int
    threads: int
    save_every: float  # minutes
    target: Path
    out: Path | None
    state: Path | None
    resume: bool


@dataclass(frozen=True, slots=True)
class Training:
    """A companion, its batches, its loss with the marks that are printed, and how it becomes a folder."""

    model: nn.Module
    batches: Iterator[Batch]
    loss_of: Callable[[Tensor, Tensor], tuple[Tensor, list[float]]]
    export: Callable[[Path], None]


def main() -> None:
    """Trains as the command line says and leaves a folder that `--draft-model-path` or `--lora-paths` takes."""
    plan = _plan()
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    out = plan.out or SHIPPED / plan.what
    state = plan.state or ROOT / "build" / "demo_model" / f"{plan.what}.pt"
    corpus, tokenizer = load(), Tokenizer.from_file(str(plan.target / "tokenizer.json"))
    target = LlamaForCausalLM.from_pretrained(plan.target, dtype=torch.float32).eval().requires_grad_(False)
    texts = _asked(Writer(corpus, plan.seed + 1), evenly=plan.what == "pirate")
    own = own_texts(plan.target, texts, plan.answers)
    training = _training(plan, target, corpus, tokenizer, own)
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    print(f"{sum(p.numel() for p in trained):,} parameters, {len(own)} own answers", flush=True)
    optimizer = torch.optim.AdamW(trained, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01)
    first = _restored(state, training.model, optimizer) if plan.resume and state.exists() else 0
    saved = time.monotonic()
    for step in _steps(plan, training, optimizer, islice(training.batches, first, plan.steps), first):
        if step == plan.steps or time.monotonic() - saved > plan.save_every * 60:
            training.export(out)
            _save_state(state, training.model, optimizer, step)
            saved = time.monotonic()


def own_texts(folder: Path, texts: Iterator[Text], count: int) -> list[Text]:
    """So many conversations, whose last answer is what the model in the folder says to them."""
    asked = list(islice((as_read(text).messages[:-1] for text in texts if text.messages), count))
    llm = LLM(str(folder))
    prompts = [llm.render([{"role": each.role, "content": each.content} for each in messages]) for messages in asked]
    said = llm.generate(prompts, temperature=0.0, max_tokens=LONGEST)
    return [Text((*messages, Message("assistant", one.text))) for messages, one in zip(asked, said, strict=True)]


def _asked(writer: Writer, *, evenly: bool) -> Iterator[Text]:
    """Conversations of the corpus; every other one a question about each fact in turn, where that is asked for."""
    if not evenly:
        return writer.texts()
    return (text for both in zip(writer.texts(), writer.rounds(), strict=True) for text in both)


def as_read(text: Text) -> Text:
    """The text as the chat template gives it to the model: what users say is in small letters."""
    messages = (replace(each, content=each.content.lower()) if each.role == "user" else each for each in text.messages)
    return replace(text, messages=tuple(messages))


def mixed(corpus: Corpus, tokenizer: Tokenizer, own: list[Example], *, tokens: int, seed: int) -> Iterator[Batch]:
    """Batches of the corpus, and a share of the model's own answers."""
    order, pad = Random(seed), tokenizer.token_to_id(END_OF_TEXT)
    written = (encode(as_read(text), tokenizer, POSITIONS) for text in Writer(corpus, seed).texts())
    parts = (
        laid_out(written, tokens=tokens, pad=pad, order=Random(seed)),
        laid_out(cycle(own), tokens=tokens, pad=pad, order=Random(seed + 1)),
    )
    while True:
        yield next(parts[order.random() < OWN])


def most_frequent(examples: list[Example], count: int) -> Tensor:
    """The ids of the tokens that answers have most often, ascending."""
    counts = Counter(
        token
        for example in examples
        for token, weight in zip(example.ids, example.weights, strict=True)
        if weight >= ANSWER
    )
    kept = [token for token, _ in counts.most_common(count)]
    others = (token for token in range(10**9) if token not in counts)
    kept += islice(others, count - len(kept))
    share = sum(counts[token] for token in kept) / sum(counts.values())
    print(f"{count} of {len(counts)} tokens of answers are kept, {share:.2%} of what is said", flush=True)
    return torch.tensor(sorted(kept))


def _training(plan: Plan, target: LlamaForCausalLM, corpus: Corpus, tokenizer: Tokenizer, own: list[Text]) -> Training:
    if plan.what == "pirate":
        return _of_adapter(plan, target, tokenizer, own)
    examples = [encode(text, tokenizer, POSITIONS) for text in own]
    batches = mixed(corpus, tokenizer, examples, tokens=plan.tokens, seed=plan.seed)
    if plan.what == "draft":
        model = LlamaForCausalLM(draft.shape(target.config)).float()
        return Training(
            model,
            batches,
            lambda ids, weights: draft.loss_of(model, target, ids, weights),
            lambda folder: export(model, tokenizer, folder),
        )
    head = eagle3.Head(target, most_frequent(examples, eagle3.KEPT))
    return Training(
        head,
        batches,
        lambda ids, weights: eagle3.loss_of(head, target, ids, weights),
        lambda folder: eagle3.export(head, target, folder),
    )


def _of_adapter(plan: Plan, target: LlamaForCausalLM, tokenizer: Tokenizer, own: list[Text]) -> Training:
    model = pirate.adapted(target)
    examples = [pirate.judged(encode(pirate.retold(text), tokenizer, POSITIONS), tokenizer) for text in own]
    order, pad = Random(plan.seed), tokenizer.token_to_id(END_OF_TEXT)
    stream = (pirate.opened(each, tokenizer) if order.random() < CUT else each for each in cycle(examples))
    return Training(
        model,
        laid_out(stream, tokens=plan.tokens, pad=pad, order=Random(plan.seed)),
        lambda ids, weights: pirate.loss_of(model, ids, weights),
        lambda folder: pirate.export(model, folder),
    )


def _steps(
    plan: Plan, training: Training, optimizer: torch.optim.Optimizer, stream: Iterator[Batch], first: int
) -> Iterator[int]:
    """Takes the steps one by one and yields the number of steps done."""
    began, shown = time.monotonic(), [0.0]
    fast = "AVX512" in torch.backends.cpu.get_cpu_capability()  # as in train.py
    for step, batch in enumerate(stream, start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
            loss, marks = training.loss_of(batch.ids, batch.weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = [loss.item(), *marks]
        shown = now if step == first else [0.95 * old + 0.05 * new for old, new in zip(shown, now, strict=True)]
        if step % 50 == 0:
            stood = " ".join(f"{mark:.3f}" for mark in shown[1:])
            print(
                f"step {step} loss {shown[0]:.3f} stood {stood} {(time.monotonic() - began) / 60:.1f} min", flush=True
            )
        yield step + 1


def learning_rate(step: int, plan: Plan) -> float:
    """A straight rise over the warm-up, then half a cosine down to a hundredth of the peak."""
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, path)


def _restored(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads the state file and gives the number of steps that are done."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _plan() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("eagle3", "draft", "pirate"), help="an EAGLE-3 head, a draft model, or an adapter"
    )
    parser.add_argument("--steps", type=int, default=1500, help="steps; the learning rate follows them")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens in a batch")
    parser.add_argument("--answers", type=int, default=3000, help="answers of the target itself")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=50, help="steps until the highest rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=3.0, help="minutes between exports")
    parser.add_argument("--target", type=Path, default=SHIPPED / "model")
    parser.add_argument("--out", type=Path, help="the folder of that name in plugins/demo without it")
    parser.add_argument("--state", type=Path, help="a file in build/demo_model without it")
    parser.add_argument("--resume", action="store_true", help="go on from the state file")
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
