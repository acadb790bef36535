"""Adapters that are loaded, replaced and unloaded while requests with them run.

    OMP_NUM_THREADS=1 python benchmarks/adapter_churn.py [--changes 500] [-- further options of max serve]

It starts `max serve` with a tiny random model and makes changes one after the other, while clients stream texts of the
base model and of whatever adapters there are. Each text must be the one that the base model or the adapter's folder
gave when it was asked alone; where a name is being replaced meanwhile, the folder before will do. At the end it says
how long changes took, the longest time that a stream waited for a token, and how the memory of the server went. Exit
status 1 and a line for everything that was not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch
from safetensors.torch import save_file
from soak import HEADS, MOST_LINES, SIZES, Record, grown, make_model, processes, thirds, watch

from maxserve.testing.live import LiveServer

CLIENTS, TOKENS, RANK, SLOTS, FOLDERS, NAMES = 6, 24, 16, 3, 6, 5
LIMIT = 60.0  # seconds that a request or a change may take
BASE = "tiny"


def make_adapters(folder: Path) -> list[Path]:
    """Random factors for the attention of each layer, as PEFT saves them."""
    made = []
    inputs, outputs = SIZES["hidden_size"], HEADS["num_attention_heads"] * HEADS["head_dim"]
    for seed in range(FOLDERS):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(SIZES["num_hidden_layers"]):
            for part in ("q_proj", "k_proj", "v_proj"):
                name = f"base_model.model.model.layers.{layer}.self_attn.{part}.lora"
                tensors[f"{name}_A.weight"] = torch.randn(RANK, inputs, generator=generator) / inputs**0.5
                tensors[f"{name}_B.weight"] = torch.randn(outputs, RANK, generator=generator) / RANK**0.5
        made.append(folder / f"adapter-{seed}")
        made[-1].mkdir()
        save_file(tensors, made[-1] / "adapter_model.safetensors")
        (made[-1] / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}))
    return made


@dataclass(slots=True)
class Served:
    """What a name may stand for: the folder that it had, and, while it is replaced, the one that it gets."""

    folders: tuple[int, ...]
    waiting: int = 0  # requests that are sent and have no token yet, so that one cannot know which they get
    seen: set[int] = field(default_factory=set)  # folders that it had while these wait


@dataclass(slots=True)
class Seen:
    """Figures of the run. `gaps` are seconds between two tokens of a stream, `changes` those that each kind took."""

    texts: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    changes: dict[str, list[float]] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)


class Churn:
    """Clients, and what changes the adapters under them. `expected` are texts by folder, the base's under -1."""

    def __init__(self, http: httpx.AsyncClient, folders: Sequence[Path], seed: int) -> None:
        self._http, self._folders, self._random = http, folders, random.Random(seed)
        self._names: dict[str, Served] = {}
        self._expected: dict[int, str] = {}
        self._over = False
        self.seen = Seen()

    async def run(self, changes: int) -> None:
        await self._learn()
        clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        for _ in range(changes):
            await self._change()
        self._over = True
        await asyncio.gather(*clients)
        for name in list(self._names):
            await self._unload(name)

    async def _learn(self) -> None:
        """The text of the base and of each folder, alone."""
        self._expected[-1] = await self._text(BASE)
        for number in range(len(self._folders)):
            await self._post("load", lora_name="alone", lora_path=str(self._folders[number]), load_inplace=True)
            self._expected[number] = await self._text("alone")
        await self._post("unload", lora_name="alone")
        if len(set(self._expected.values())) <= len(self._folders):
            self.seen.wrong["two adapters give the same text, which shows nothing"] += 1

    # --- changes --------------------------------------------------------------------------------------------------

    async def _change(self) -> None:
        name = f"adapter-{self._random.randrange(NAMES)}"
        if name not in self._names:
            number = self._random.randrange(len(self._folders))
            await self._post("load", lora_name=name, lora_path=str(self._folders[number]))
            self._names[name] = Served((number,))
        elif self._random.random() < 0.5:
            await self._replace(name, self._random.randrange(len(self._folders)))
        else:
            await self._unload(name)

    async def _replace(self, name: str, number: int) -> None:
        served = self._names[name]
        served.folders = (*served.folders, number)
        served.seen.add(number)
        await self._post(
            "load", lora_name=name, lora_path=str(self._folders[number]), load_inplace=True, kind="replace"
        )
        served.folders = (number,)

    async def _unload(self, name: str) -> None:
        """Once all requests with it have begun; those that run on keep it."""
        served = self._names.pop(name)
        while served.waiting:
            await asyncio.sleep(0.001)
        await self._post("unload", lora_name=name)

    async def _post(self, action: str, kind: str = "", **body: object) -> None:
        begun = time.perf_counter()
        answer = await self._http.post(f"/v1/{action}_lora_adapter", json=body)
        self.seen.changes.setdefault(kind or action, []).append(time.perf_counter() - begun)
        if answer.status_code != 200:
            self.seen.wrong[f"{kind or action}: {answer.status_code} {answer.text[:200]}"] += 1

    # --- requests -------------------------------------------------------------------------------------------------

    async def _client(self) -> None:
        while not self._over:
            name = self._random.choice([BASE, *self._names])
            served = self._names.get(name, Served((-1,)))
            served.waiting += 1
            if served.waiting == 1:
                served.seen = set(served.folders)
            text, allowed = "", set(served.folders)
            async for piece in self._stream(name):
                if not text:
                    served.waiting -= 1
                    allowed |= served.seen
                text += piece
            if not text:
                served.waiting -= 1
            self.seen.texts["base" if name == BASE else "adapter"] += 1
            if text not in {self._expected[number] for number in allowed}:
                self.seen.wrong[f"a text of {name} is none of {sorted(allowed)}: {text[:60]!r}"] += 1

    async def _text(self, name: str) -> str:
        return "".join([piece async for piece in self._stream(name)])

    async def _stream(self, name: str) -> AsyncIterator[str]:
        body = {"model": name, "prompt": "ab cd ef", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        last = 0.0
        async with self._http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            if answer.status_code != 200:
                self.seen.wrong[f"{name}: {answer.status_code} {(await answer.aread())[:200]!r}"] += 1
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    self.seen.wrong[f"{name}: {event['error']}"] += 1
                elif text := event["choices"][0]["text"]:
                    if last:
                        self.seen.gaps.append(time.perf_counter() - last)
                    last = time.perf_counter()
                    yield text


@asynccontextmanager
async def watched(server: LiveServer, record: Record) -> AsyncIterator[None]:
    watching = asyncio.create_task(watch(processes(server), record))
    try:
        yield
    finally:
        watching.cancel()


async def churn(server: LiveServer, folders: Sequence[Path], changes: int, seed: int, record: Record) -> Seen:
    async with httpx.AsyncClient(base_url=server.url, timeout=LIMIT) as http, watched(server, record):
        made = Churn(http, folders, seed)
        await made.run(changes)
        return made.seen


def report(seen: Seen, record: Record) -> None:
    for kind, seconds in sorted(seen.changes.items()):
        ordered = sorted(seconds)
        middle, most = 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[-1]
        print(f"{kind:8s} {len(ordered):5d}  median {middle:.0f} ms, most {most:.0f} ms")
    print(f"texts: {', '.join(f'{count} of the {who}' for who, count in sorted(seen.texts.items()))}")
    gaps = sorted(seen.gaps)
    if gaps:
        print(f"between tokens: median {1e3 * gaps[len(gaps) // 2]:.1f} ms, most {1e3 * gaps[-1]:.0f} ms")
    if len(record.memory) >= 3:
        for name, sizes in zip(("API process", "worker"), zip(*record.memory, strict=True), strict=True):
            middle, last = (size / 2**20 for size in thirds(sizes))
            print(f"{name}: {middle:.1f} MB in the middle third, {last:.1f} MB in the last ({last / middle - 1:+.2%})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=500, help="memory is judged from 200 on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="further options of max serve, after --")
    given = parser.parse_args()
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        make_model(model)
        folders = make_adapters(Path(folder))
        lora = ("--enable-lora", "--max-num-loras", str(SLOTS), "--max-lora-rank", str(RANK))
        sizes = ("--max-batch-size", "16", "--max-length", "128")
        server = LiveServer("--model", str(model), "--served-model-name", BASE, *lora, *sizes, *given.options)
        try:
            server.wait_ready()
            seen = asyncio.run(churn(server, folders, given.changes, given.seed, record))
        finally:
            status = server.stop()
    report(seen, record)
    found = [f"{count} x {text}" for text, count in seen.wrong.most_common(MOST_LINES)]
    found += [f"the server ended with exit status {status}"] if status else []
    found += grown(record.memory) if given.changes >= 200 else []
    print("\n".join(f"VIOLATION: {line}" for line in found) or "no violation")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
