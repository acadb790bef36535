"""The cost of grammars: compile times, and the masks of a step, on a large vocabulary made here.

    python benchmarks/grammar_mask.py [--vocab 152000] [--rows 32] [--model FOLDER]

Per back end: a cold and a warm compilation; then, for a batch, filling the packed mask (what the grammar does) and
applying it (what the draw does), in microseconds per step, as the median and the 95th percentile. With a model also
whole decode steps of a batch of free and of constrained sequences, in turns, greedy and drawn.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

import maxserve
from maxserve.core.engine.grammar import Mask, bars_of_bytes
from maxserve.core.interfaces.grammar import GrammarContext
from maxserve.core.interfaces.request import Constraint
from maxserve.core.registry.host import PluginHost, PluginOptions

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
            "kind": {"enum": ["person", "robot", "other"]},
        },
        "required": ["name", "age", "tags", "kind"],
        "additionalProperties": False,
    }
)
# The same again and again, so that no answer ends before the others.
MANY = json.dumps({"type": "array", "minItems": 1000, "items": json.loads(SCHEMA)})
STEPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=152_000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--model", help="a folder whose model decodes with and without grammars")
    given = parser.parse_args()
    if given.model is not None:
        whole_steps(given.model, given.rows)
    context = vocabulary(given.vocab)
    host = PluginHost.discover(PluginOptions(), strict=True)
    for entry in host.grammar_backends:
        compiler, built = timed(lambda entry=entry: host.build(entry, context))  # type: ignore[misc]
        make, cold = timed(lambda compiler=compiler: compiler.compile("json_schema", SCHEMA))  # type: ignore[misc]
        _, warm = timed(lambda compiler=compiler: compiler.compile("json_schema", SCHEMA)())  # type: ignore[misc]
        print(f"{entry.name}: vocabulary {built * 1e3:.0f} ms, cold {cold * 1e3:.1f} ms, warm {warm * 1e3:.3f} ms")
        report(f"  fill, {given.rows} rows", fills(make, context, given.rows))
    report(f"apply, {given.rows} rows", applies(given.vocab, given.rows))


def vocabulary(size: int) -> GrammarContext:
    """All bytes and random pieces of text, as long as those of real vocabularies; none is like another."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz" * 4 + " ETAOINSHRDLU0123456789.,:;\"'{}[]()-_\n"
    tokens = {bytes([byte]): None for byte in range(256)}
    while len(tokens) < size - 1:
        tokens[("".join(rng.choices(letters, k=rng.randint(2, 9)))).encode()] = None
    return GrammarContext(
        sections={}, vocabulary=(b"", *tokens), eos_token_ids=(0,), vocab_size=size, tokenizer_path=""
    )


def fills(make: Callable[[], Any], context: GrammarContext, rows: int) -> list[float]:
    """Seconds per step while random texts are written."""
    rng = np.random.default_rng(0)
    mask = np.zeros((rows, -(-context.vocab_size // 32)), dtype=np.int32)
    matchers, times = [make() for _ in range(rows)], []
    for _ in range(100):
        start = time.perf_counter()
        for line, matcher in zip(mask, matchers, strict=True):
            matcher.fill(line)
        times.append(time.perf_counter() - start)
        for i, line in enumerate(mask):
            choices = np.flatnonzero(np.unpackbits(line.view(np.uint8), bitorder="little"))
            choices = choices[choices != 0]
            if len(choices):
                matchers[i].accept(int(rng.choice(choices)))
            if not len(choices) or matchers[i].finished():
                matchers[i] = make()
    return times


def applies(vocab: int, rows: int) -> list[float]:
    """Seconds for unpacking and both applications in a step where every row is constrained."""
    packed = torch.randint(-(2**31), 2**31 - 1, (rows, -(-vocab // 32)), dtype=torch.int32)
    logits, table, times = torch.randn(rows, vocab), bars_of_bytes(), []
    for _ in range(30):
        start = time.perf_counter()
        mask = Mask(torch.arange(rows), packed, table, all_rows=True)
        masked = mask.apply(logits)
        mask.likeliest(masked)
        mask.apply(masked)
        times.append(time.perf_counter() - start)
    return times


def whole_steps(model: str, rows: int) -> None:
    """Prints milliseconds of a decode step without and with a grammar in every row, medians of five turns."""
    llm = maxserve.LLM(model, max_batch_size=rows, max_length=256)
    grammar = Constraint(kind="json_schema", text=MANY, backend="llguidance")
    for how, fields in {"greedy": {"temperature": 0.0}, "drawn": {"temperature": 1.0, "top_p": 0.9, "seed": 1}}.items():
        turns: dict[str, list[float]] = {"free": [], "constrained": []}
        for _ in range(6):  # the first warms up
            for kind, constraint in (("free", None), ("constrained", grammar)):
                work = partial(llm.generate, ["Once upon a time"] * rows, max_tokens=STEPS, **fields)
                done, seconds = timed(partial(work, ignore_eos=True, constraint=constraint))
                assert all(len(d.tokens) == STEPS for d in done), "an answer ended early"
                turns[kind].append(seconds / STEPS * 1e3)
        free, constrained = (median(turns[kind][1:]) for kind in ("free", "constrained"))
        print(
            f"{how}, {rows} rows: {free:.1f} ms a step, {constrained:.1f} with grammars, +{constrained / free - 1:.1%}"
        )


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def report(what: str, times: list[float]) -> None:
    print(f"{what}: {median(times) * 1e6:.0f} us, 95 %: {sorted(times)[int(len(times) * 0.95)] * 1e6:.0f} us")


if __name__ == "__main__":
    main()
