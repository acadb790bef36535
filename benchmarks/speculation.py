"""What speculative methods gain, in turns with plain decoding, and whether texts stay the same.

    python benchmarks/speculation.py --model FOLDER --methods synthetic:0.7,synthetic:0.0 --streams 1,8,32
    python benchmarks/speculation.py --methods eagle,standalone:FOLDER,ngram --streams 1,8,32
    python benchmarks/speculation.py --same 200 --methods ngram/fixed,suffix/fixed,cascade/fixed,eagle/fixed

A method is a name of `--speculative-method`, with `:SHARE` for the acceptance of `synthetic` (0.0 is always wrong),
`:PATH` for the draft model of `standalone` or the head of `eagle`, and `/fixed` behind it for drafts of a fixed length;
`suffix` keeps past answers, and `cascade` is `ngram` before `standalone`. Each row has the tokens per second of a
method, in those of plain decoding: the median over rounds of the quotients of each round, the lowest and the highest.
All take turns in each round. So many streams are requests that are computed at once, of three times as many: when one
is over the next begins. The demo answers questions that it was trained for; other models, whose weights may be random,
write texts of one length.

With `--same`, texts alone, 16 at once and 16 at once with pages for a few of them are compared with those of plain
decoding, greedy and seeded.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import ne
from pathlib import Path
from typing import Any

import yaml

from maxserve import LLM
from maxserve.plugins.cache import memory_plan

QUESTIONS = (
    "How do I set the port?",
    "What is the capital of France?",
    "Which option sets the KV cache page size?",
    "How do I write a scheduler plugin?",
)


def options_of(method: str) -> dict[str, Any]:
    """The options of an LLM for a method, as the command line has it."""
    name, fixed = method.removesuffix("/fixed"), method.endswith("/fixed")
    name, _, value = name.partition(":")
    options: dict[str, Any] = {"speculative_method": name, "adaptive_speculation": not fixed}
    if name == "synthetic":
        options["synthetic__acceptance"] = float(value or 0.7)
    elif value:
        options["draft_model_path"] = value
    if name == "suffix":
        options["suffix__max_cached_tokens"] = 100_000
    if name == "cascade":
        options["cascade__then"] = "standalone"
    return options


def prompts_of(count: int) -> list[str]:
    return [f"{QUESTIONS[i % len(QUESTIONS)]} ({i})" for i in range(count)]


def rendered(llm: LLM, questions: list[str]) -> list[Any]:
    return [llm.render([{"role": "user", "content": question}]) for question in questions]


def timed(llm: LLM, prompts: list[Any], params: dict[str, Any]) -> tuple[float, list[str]]:
    begun = time.perf_counter()
    found = llm.generate(prompts, **params)
    return time.perf_counter() - begun, [completion.text for completion in found]


def compare_speed(model: str | None, methods: list[str], count: int, rounds: int, params: dict[str, Any]) -> None:
    """One row, for so many streams."""
    options: dict[str, dict[str, Any]] = {"plain": {}, **{method: options_of(method) for method in methods}}
    models = {name: LLM(model, max_batch_size=count, **own) for name, own in options.items()}
    gc.collect()
    gc.freeze()  # as servers do: a collection that looks through all models takes a fifth of a round
    prompts = prompts_of(3 * count) if model else rendered(models["plain"], questions_of(max(3 * count, 16)))
    took: dict[str, list[float]] = {name: [] for name in models}
    texts: dict[str, list[str]] = {}
    for round in range(rounds + 1):  # the first one is not counted
        turn = list(models.items())
        for name, llm in turn[round % len(turn) :] + turn[: round % len(turn)]:  # none is always the first one
            seconds, texts[name] = timed(llm, prompts, params)
            if round:
                took[name].append(seconds)
    plain = took["plain"]
    print(f"{count} streams, plain {statistics.median(plain):.2f} s for {len(prompts)} answers", end="")
    for name in list(models)[1:]:
        gains = [p / s for p, s in zip(plain, took[name], strict=True)]
        same = "" if texts[name] == texts["plain"] else " (OTHER TEXTS)"
        print(f", {name} {statistics.median(gains):.2f}x ({min(gains):.2f} to {max(gains):.2f}){same}", end="")
    print(flush=True)
    report(models)


def questions_of(count: int) -> list[str]:
    """What users may want to know of the server: the goals of options, which the demo model has answers to."""
    facts = yaml.safe_load((Path(__file__).parents[1] / "tools/demo_model/facts/options.yaml").read_text())
    goals = [goal for fact in facts.values() for goal in fact.get("goals", ())]
    return [f"How do I {goal}?" for goal in goals][:count]


def compare_texts(model: str | None, methods: list[str], count: int, params: dict[str, Any]) -> None:
    """Greedy and seeded texts: alone, 16 at once, and so with pages for a few of them."""
    length = 64 + params["max_tokens"]
    kinds = {"greedy": {"temperature": 0.0}, "seeded": {"temperature": 1.0, "seed": 7}}
    plain = LLM(model, max_length=length)
    prompts = rendered(plain, questions_of(count))
    expected = {kind: timed(plain, prompts, {**params, **own})[1] for kind, own in kinds.items()}
    for method in methods:
        options: dict[str, Any] = {"max_length": length, "max_batch_size": 16, "kv_cache_page_size": 16}
        options |= options_of(method)
        llm = LLM(model, **options)
        with few_pages(2 * length // 16):
            tight = LLM(model, **options)
        for kind, own in kinds.items():
            found = {"alone": batches(llm, prompts, 1, {**params, **own})}
            found["16 at once"] = batches(llm, prompts, 16, {**params, **own})
            found["16 with preemption"] = batches(tight, prompts, 16, {**params, **own})
            differ = {how: sum(map(ne, texts, expected[kind])) for how, texts in found.items()}
            counts = ", ".join(f"{number} {how}" for how, number in differ.items())
            print(f"{method}, {kind}: of {len(prompts)} texts differ {counts}", flush=True)
        report({method: llm, f"{method} with preemption": tight})


@contextmanager
def few_pages(pages: int) -> Iterator[None]:
    """Engines that are built meanwhile have so many pages, whatever their options would give them."""
    plan = memory_plan.plan_memory
    memory_plan.plan_memory = lambda *args, **options: replace(plan(*args, **options), pages=pages)
    try:
        yield
    finally:
        memory_plan.plan_memory = plan


def batches(llm: LLM, prompts: list[Any], size: int, params: dict[str, Any]) -> list[str]:
    return [text for i in range(0, len(prompts), size) for text in timed(llm, prompts[i : i + size], params)[1]]


def report(models: dict[str, LLM]) -> None:
    for name, llm in models.items():
        stats = llm._engine.stats()
        tokens = stats.accepted_tokens / stats.drafts if stats.drafts else 0.0
        print(
            f"{name}: {stats.steps} steps, {stats.drafts} with drafts, {tokens:.2f} of which stood a step; "
            f"{stats.preemptions} preemptions"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder; the demo model without it")
    parser.add_argument("--methods", default="synthetic:0.7,synthetic:0.0,ngram")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--same", type=int, default=0, help="compare texts of so many prompts instead")
    chosen = parser.parse_args()
    methods, params = chosen.methods.split(","), {"max_tokens": chosen.tokens, "ignore_eos": bool(chosen.model)}
    if chosen.same:
        compare_texts(chosen.model, methods, chosen.same, params)
        return
    params["temperature"] = 0.0
    for count in chosen.streams.split(","):
        compare_speed(chosen.model, methods, int(count), chosen.rounds, params)


if __name__ == "__main__":
    main()
