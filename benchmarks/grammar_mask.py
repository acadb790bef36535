"""What do grammars cost? Compile times, and the masks of a step, on a large vocabulary made here.

    python benchmarks/grammar_mask.py [--vocab 152000] [--rows 32]

Per back end: a cold and a warm compilation; then, for a batch, filling the packed mask (what the grammar does) and
applying it (what the draw does), in microseconds per step, as the median and the 95th percentile.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from maxserve.core.engine.masks import Mask, bars_of_bytes
from maxserve.core.grammars import GrammarContext
from maxserve.core.host import Host, PluginOptions

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=152_000)
    parser.add_argument("--rows", type=int, default=32)
    given = parser.parse_args()
    context = vocabulary(given.vocab)
    host = Host.discover(PluginOptions(), strict=True)
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
        mask = Mask(torch.arange(rows), packed, table, everyone=True)
        masked = mask.apply(logits)
        mask.likeliest(masked)
        mask.apply(masked)
        times.append(time.perf_counter() - start)
    return times


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def report(what: str, times: list[float]) -> None:
    print(f"{what}: {median(times) * 1e6:.0f} us, 95 %: {sorted(times)[int(len(times) * 0.95)] * 1e6:.0f} us")


if __name__ == "__main__":
    main()
