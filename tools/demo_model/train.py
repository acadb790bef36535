"""Trains the demo model from nothing: `python tools/demo_model/train.py`.

The text comes from `facts/` by way of `corpus.py`, `phrasing.py` and `conversation.py`; nothing is downloaded. The same
seed and number of steps give the same batches. `--resume` goes on from the state file that is written with each export.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from corpus import load
from dataset import Batch, batches
from model import POSITIONS, export, shape
from tokenizer import train_tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for. The learning rate falls with a cosine over `steps`, or sooner over `minutes`."""

    steps: int
    minutes: float  # be done by then, whatever the step; 0 for no limit
    tokens: int
    rate: float
    warmup: int
    seed: int
    threads: int
    save_every: float  # minutes
    out: Path
    state: Path
    resume: bool


def main() -> None:
    """Trains as the command line says and leaves a model that can be served."""
    plan = _plan()
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    corpus = load()
    tokenizer = train_tokenizer(corpus, plan.seed)
    model = LlamaForCausalLM(shape(tokenizer)).float()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    optimizer = _optimizer(model, plan.rate)
    first = _restored(plan.state, model, optimizer) if plan.resume else 0
    stream = batches(corpus, tokenizer, tokens=plan.tokens, positions=POSITIONS, seed=plan.seed)
    saved = time.monotonic()
    for step in _steps(plan, model, optimizer, islice(stream, first, None), first):
        if step == plan.steps or time.monotonic() - saved > plan.save_every * 60:
            export(model, tokenizer, plan.out)
            _save_state(plan.state, model, optimizer, step)
            saved = time.monotonic()
    export(model, tokenizer, plan.out)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """The mean cross-entropy of the next tokens, weighted: answers count fully, questions a little."""
    # Half as fast again as float32 where the CPU knows bfloat16, and a hundred times slower where it has no AVX-512.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="AVX512" in torch.backends.cpu.get_cpu_capability()):
        logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
    each = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def learning_rate(step: int, spent: float, plan: Plan) -> float:
    """A straight rise over the warm-up, then half a cosine down to a hundredth of the peak. `spent` is in seconds."""
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    by_step = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    by_clock = spent / (plan.minutes * 60) if plan.minutes else 0.0
    return plan.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, max(by_step, by_clock)))))


def _steps(
    plan: Plan, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, stream: Iterator[Batch], first: int
) -> Iterator[int]:
    """Takes the steps one by one and yields the number of steps done."""
    began, seen, shown = time.monotonic(), 0, 0.0
    for step, batch in enumerate(islice(stream, plan.steps - first), start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, time.monotonic() - began, plan)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += batch.ids.numel()
        spent = time.monotonic() - began
        shown = loss.item() if step == first else 0.95 * shown + 0.05 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {shown:.3f} {spent / 60:.1f} min {seen / spent:.0f} tokens/s", flush=True)
        yield step + 1
        if plan.minutes and spent > plan.minutes * 60:
            return


def _optimizer(model: LlamaForCausalLM, rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices and leaves norms alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def _save_state(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)


def _restored(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """Loads the state file and gives the number of steps that are done."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _plan() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="planned steps; the learning rate follows them")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="be done by then, at fewer steps if need be (0: no limit)"
    )
    parser.add_argument("--tokens", type=int, default=1024, help="tokens in a batch")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=200, help="steps until the highest rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=5.0, help="minutes between exports")
    parser.add_argument("--out", type=Path, default=ROOT / "plugins" / "demo" / "model")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "demo_model" / "state.pt")
    parser.add_argument("--resume", action="store_true", help="go on from the state file")
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
