"""Processor time that the API process takes for a streamed token, and for a request.

    python benchmarks/api_cost.py FOLDER [--runs 3] [-- options of max serve]

FOLDER should be a tiny model: then tokens come fast and little of the time is waiting. Two loads on one server: 32
clients with short prompts and 64 tokens each (scenario c of load.py), and 8 clients with texts of 128 words and one
token each. Processor time, unlike the clock, is changed little by other work on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import load
import psutil

from maxserve.testing.live import LiveServer

WORDS = ("the", "list", "of", "every", "return", "value", "is", "not", "none", "when", "file", "type", "and", "name")
TEXTS = 64  # requests of the second load
_SCHEDULED = 2  # the last bits of a clock's id: a process, by what it ran (clock_getcpuclockid of the C library)


def texts(seed: int) -> list[bytes]:
    """Bodies with a text of 128 words each, as plain completions of one token."""
    rng = random.Random(seed)
    prompts = [" ".join(rng.choices(WORDS, k=128)) for _ in range(TEXTS)]
    return [json.dumps({"prompt": prompt, "max_tokens": 1, "stream": True}).encode() for prompt in prompts]


async def ask_texts(url: str, seed: int) -> None:
    waiting = texts(seed)

    async def client() -> None:
        while waiting:
            answer = await load.ask(url, waiting.pop())
            if answer.error:
                raise SystemExit(answer.error)

    await asyncio.gather(*(client() for _ in range(8)))


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of all threads that the process has and had; Linux counts it in nanoseconds."""
    return time.clock_gettime((~process.pid << 3) | _SCHEDULED)


def cost(process: psutil.Process, work: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """Processor seconds that `process` takes while `work` runs."""
    before = cpu_seconds(process)
    asyncio.run(work())
    return cpu_seconds(process) - before


def measure(url: str, pid: int, vocabulary: int, runs: int) -> dict[str, list[float]]:
    """Microseconds by what they were spent on: of the API process, and of the worker for comparison."""
    api = psutil.Process(pid)
    worker = api.children()[0]
    scenario = load.SCENARIOS["c"]
    tokens = scenario.requests * scenario.output
    spent: dict[str, list[float]] = {"per streamed token": [], "per request of 128 words": [], "worker, per token": []}
    for seed in range(runs + 1):
        before = cpu_seconds(worker)
        streamed = cost(api, lambda seed=seed: load.run(url, scenario, vocabulary, seed))  # type: ignore[misc]
        worked = cpu_seconds(worker) - before
        asked = cost(api, lambda seed=seed: ask_texts(url, seed))  # type: ignore[misc]
        if seed:  # the first run warms up
            spent["per streamed token"].append(1e6 * streamed / tokens)
            spent["per request of 128 words"].append(1e6 * asked / TEXTS)
            spent["worker, per token"].append(1e6 * worked / tokens)
    return spent


def main() -> None:
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model with a tokenizer")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args(arguments[:cut])
    vocabulary = json.loads((given.model / "config.json").read_text())["vocab_size"]
    server = LiveServer("--model", str(given.model), *arguments[cut + 1 :]).wait_ready()
    try:
        spent = measure(server.url, server.process.pid, vocabulary, given.runs)
    finally:
        server.stop()
    for name, values in spent.items():
        print(f"{name:26s} min {min(values):8.1f}  median {statistics.median(values):8.1f}  µs of processor time")


if __name__ == "__main__":
    main()
