"""Throughput and latency of a server, measured by a streaming client of /v1/completions.

`python benchmarks/load.py --url http://127.0.0.1:8000 --tokenizer FOLDER [--scenario a b c d e f g h] [--runs 3]`

Prompts are token ids drawn anew for each run, so nothing is found in the prefix cache but what a scenario shares. Each
request is greedy and has a fixed number of tokens. One thread and plain sockets: the client shares the machine.

a to e are about throughput; in f a long prompt comes while others decode, g is a long prompt alone, and in h several
answers to one prompt are asked for at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Scenario:
    clients: int
    requests: int
    prompt: int  # tokens, shared ones included
    output: int
    shared: int = 0
    together: bool = False  # those with the shared prompt are sent at once, none of them first
    late: int = 0  # tokens of a prompt that comes while the others decode


SCENARIOS = {
    "a": Scenario(clients=1, requests=2, prompt=128, output=128),
    "b": Scenario(clients=8, requests=32, prompt=128, output=64),
    "c": Scenario(clients=32, requests=64, prompt=64, output=64),
    "d": Scenario(clients=4, requests=8, prompt=1024, output=8),
    "e": Scenario(clients=4, requests=16, prompt=800, output=16, shared=768),
    "f": Scenario(clients=6, requests=6, prompt=64, output=1024, late=4000),
    "g": Scenario(clients=1, requests=1, prompt=7000, output=8),
    "h": Scenario(clients=8, requests=8, prompt=1000, output=16, shared=1000, together=True),
}
WARM = 16  # tokens that each stream has before the late prompt comes


@dataclass(slots=True)
class Answer:
    begun: float
    times: list[float] = field(default_factory=list)  # of each event with text
    error: str = ""


async def ask(url: str, body: bytes, answer: Answer | None = None) -> Answer:
    """One streamed request and when its events came, as they come."""
    place = urlsplit(url)
    answer = Answer(time.perf_counter()) if answer is None else answer
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        async for line in reader:
            if line.startswith(b"HTTP/1.1") and b" 200 " not in line:
                answer.error = line.decode().strip()
            elif line.startswith(b"data: {"):
                _note(answer, json.loads(line[6:]))
    finally:
        writer.close()
    return answer


def _note(answer: Answer, event: dict[str, object]) -> None:
    if "error" in event:
        answer.error = str(event["error"])
    else:
        answer.times.append(time.perf_counter())


def bodies(scenario: Scenario, vocabulary: int, seed: int) -> list[bytes]:
    """The requests of a scenario."""
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(16, vocabulary) for _ in range(count)]

    shared = ids(scenario.shared)
    fixed = {"max_tokens": scenario.output, "temperature": 0, "ignore_eos": True, "stream": True}
    prompts = [shared + ids(scenario.prompt - scenario.shared) for _ in range(scenario.requests)]
    return [json.dumps({"prompt": prompt, **fixed}).encode() for prompt in prompts]


async def run(url: str, scenario: Scenario, vocabulary: int, seed: int) -> dict[str, float]:
    """Figures of one run."""
    if scenario.late:
        return await _run_late(url, scenario, vocabulary, seed)
    waiting = bodies(scenario, vocabulary, seed)
    answers: list[Answer] = []
    begun = time.perf_counter()
    alone = scenario.shared > 0 and not scenario.together
    if alone:  # the first request fills the cache
        answers.append(await ask(url, waiting.pop()))

    async def client() -> None:
        while waiting:
            answers.append(await ask(url, waiting.pop()))

    await asyncio.gather(*(client() for _ in range(scenario.clients)))
    seconds = time.perf_counter() - begun
    good = [a for a in answers if not a.error and a.times]
    first = [a.times[0] - a.begun for a in good[alone:]]
    return {
        "output tok/s": len(good) * scenario.output / seconds,
        "input tok/s": len(good) * scenario.prompt / seconds,
        "first token ms": 1000 * statistics.median(first) if first else float("nan"),
        "all answers ms": 1000 * seconds,
        "errors": len(answers) - len(good),
    }


async def _run_late(url: str, scenario: Scenario, vocabulary: int, seed: int) -> dict[str, float]:
    """A long prompt alone, then another one while as many as there are clients decode."""
    sole = replace(scenario, requests=2, prompt=scenario.late, output=8, late=0)
    before, late = bodies(sole, vocabulary, seed)
    alone = await ask(url, before)
    streams = [Answer(time.perf_counter()) for _ in range(scenario.clients)]
    asked = zip(bodies(scenario, vocabulary, seed), streams, strict=True)
    tasks = [asyncio.create_task(ask(url, body, answer)) for body, answer in asked]
    while not all(len(stream.times) >= WARM or stream.error for stream in streams):
        await asyncio.sleep(0.01)
    beside = await ask(url, late)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    good = all(answer.times and not answer.error for answer in (alone, beside, *streams))
    longest = max(longest_gap(stream.times, beside) for stream in streams) if good else float("nan")
    own, other = (a.times[0] - a.begun if a.times else float("nan") for a in (beside, alone))
    return {
        "longest gap ms": 1000 * longest,
        "first token ms": 1000 * own,
        "of it alone": own / other,
        "errors": 0 if good else 1,
    }


def longest_gap(times: list[float], beside: Answer) -> float:
    """The longest time between two events of a stream until `beside` had its first token; it must not end before."""
    until = beside.times[0]
    if times[-1] < beside.begun:
        return until - times[-1]
    gaps = [after - before for before, after in pairwise(times) if after > beside.begun and before < until]
    return max([*gaps, until - times[-1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the served model")
    parser.add_argument("--scenario", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    vocabulary = json.loads((given.tokenizer / "config.json").read_text())["vocab_size"]
    for name in given.scenario:
        runs = [asyncio.run(run(given.url, SCENARIOS[name], vocabulary, seed)) for seed in range(given.runs)]
        figures = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        print(f"{name}  " + "  ".join(f"{key} {value:8.1f}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
