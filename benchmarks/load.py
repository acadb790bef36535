"""Throughput and latency of a server, measured by a streaming client of /v1/completions.

`python benchmarks/load.py --url http://127.0.0.1:8000 --tokenizer FOLDER [--scenario a b c d e] [--runs 3]`

Prompts are token ids drawn anew for each run, so nothing is found in the prefix cache but what a scenario shares. Each
request is greedy and has a fixed number of tokens. One thread and plain sockets: the client shares the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Scenario:
    clients: int
    requests: int
    prompt: int  # tokens, shared ones included
    output: int
    shared: int = 0


SCENARIOS = {
    "a": Scenario(clients=1, requests=2, prompt=128, output=128),
    "b": Scenario(clients=8, requests=32, prompt=128, output=64),
    "c": Scenario(clients=32, requests=64, prompt=64, output=64),
    "d": Scenario(clients=4, requests=8, prompt=1024, output=8),
    "e": Scenario(clients=4, requests=16, prompt=800, output=16, shared=768),
}


@dataclass(slots=True)
class Answer:
    begun: float
    times: list[float] = field(default_factory=list)  # of each event with text
    error: str = ""


async def ask(url: str, body: bytes) -> Answer:
    """One streamed request and when its events came."""
    place = urlsplit(url)
    answer = Answer(time.perf_counter())
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
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(16, vocabulary) for _ in range(count)]

    shared = ids(scenario.shared)
    fixed = {"max_tokens": scenario.output, "temperature": 0, "ignore_eos": True, "stream": True}
    prompts = [shared + ids(scenario.prompt - scenario.shared) for _ in range(scenario.requests)]
    return [json.dumps({"prompt": prompt, **fixed}).encode() for prompt in prompts]


async def run(url: str, scenario: Scenario, vocabulary: int, seed: int) -> dict[str, float]:
    """Figures of one run."""
    waiting = bodies(scenario, vocabulary, seed)
    answers: list[Answer] = []
    begun = time.perf_counter()
    if scenario.shared:  # the first request fills the cache, alone
        answers.append(await ask(url, waiting.pop()))

    async def client() -> None:
        while waiting:
            answers.append(await ask(url, waiting.pop()))

    await asyncio.gather(*(client() for _ in range(scenario.clients)))
    seconds = time.perf_counter() - begun
    good = [a for a in answers if not a.error and a.times]
    first = [a.times[0] - a.begun for a in good[bool(scenario.shared) :]]
    return {
        "output tok/s": len(good) * scenario.output / seconds,
        "input tok/s": len(good) * scenario.prompt / seconds,
        "first token ms": 1000 * statistics.median(first) if first else float("nan"),
        "errors": len(answers) - len(good),
    }


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
