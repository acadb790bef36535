"""What speculative methods gain, in turns with plain decoding, and whether texts stay the same.

    python benchmarks/speculation.py --methods synthetic:0.7,synthetic:0.0,ngram --streams 1,8,32
    python benchmarks/speculation.py --same 200 --methods ngram,synthetic:0.7

A method is a name of `--speculative-method`, with `:SHARE` for the acceptance of `synthetic`, `:PATH` for the draft
model of `standalone`, and `/fixed` behind it for drafts of a fixed length. Each row has the tokens per second of a
method, in those of plain decoding: the median over rounds of the quotients of each round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from maxserve import LLM

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
    return options


def prompts_of(count: int) -> list[str]:
    return [f"{QUESTIONS[i % len(QUESTIONS)]} ({i})" for i in range(count)]


def timed(llm: LLM, prompts: list[str], params: dict[str, Any]) -> tuple[float, list[str]]:
    begun = time.perf_counter()
    found = llm.generate(prompts, **params)
    return time.perf_counter() - begun, [completion.text for completion in found]


def compare_speed(models: dict[str, LLM], streams: list[int], rounds: int, params: dict[str, Any]) -> None:
    for count in streams:
        prompts = prompts_of(count)
        took: dict[str, list[float]] = {name: [] for name in models}
        texts: dict[str, list[str]] = {}
        for round in range(rounds + 1):  # the first one is not counted
            for name, llm in models.items():
                seconds, texts[name] = timed(llm, prompts, params)
                if round:
                    took[name].append(seconds)
        plain = took["plain"]
        print(f"{count} streams, plain {1e3 * statistics.median(plain) / params['max_tokens']:.2f} ms a token", end="")
        for name in list(models)[1:]:
            gains = [p / s for p, s in zip(plain, took[name], strict=True)]
            same = "" if texts[name] == texts["plain"] else " (OTHER TEXTS)"
            print(f", {name} {statistics.median(gains):.2f}x{same}", end="")
        print(flush=True)


def compare_texts(models: dict[str, LLM], count: int, params: dict[str, Any]) -> None:
    """Greedy and seeded texts, alone and 16 at once, twice each."""
    prompts = prompts_of(count)
    for seeded in (False, True):
        own = {"temperature": 0.0} if not seeded else {"temperature": 1.0, "seed": 7}
        expected = timed(models["plain"], prompts, {**params, **own})[1]
        for name in list(models)[1:]:
            together = [
                text
                for i in range(0, count, 16)
                for text in timed(models[name], prompts[i : i + 16], {**params, **own})[1]
            ]
            alone = [timed(models[name], [prompt], {**params, **own})[1][0] for prompt in prompts]
            other = sum(e != t for e, t in zip(expected * 2, together + alone, strict=True))
            print(f"{name}, {'seeded' if seeded else 'greedy'}: {other} of {2 * count} texts differ", flush=True)


def report(models: dict[str, LLM]) -> None:
    for name, llm in models.items():
        stats = llm._engine.stats()
        tokens = stats.accepted_tokens / stats.drafts if stats.drafts else 0.0
        print(f"{name}: {stats.steps} steps, {stats.drafts} with drafts, {tokens:.2f} of which stood a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder; the demo model without it")
    parser.add_argument("--methods", default="synthetic:0.7,synthetic:0.0,ngram")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--same", type=int, default=0, help="compare texts of so many prompts instead")
    chosen = parser.parse_args()
    models = {"plain": LLM(chosen.model)}
    models |= {method: LLM(chosen.model, **options_of(method)) for method in chosen.methods.split(",")}
    params: dict[str, Any] = {"max_tokens": chosen.tokens, "ignore_eos": not chosen.same}
    if chosen.same:
        compare_texts(models, chosen.same, params)
    else:
        params["temperature"] = 0.0
        compare_speed(models, [int(count) for count in chosen.streams.split(",")], chosen.rounds, params)
    report(models)


if __name__ == "__main__":
    main()
