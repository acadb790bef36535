"""A long run of a server under mixed load.

    OMP_NUM_THREADS=1 python benchmarks/soak.py [--minutes 20] [--model FOLDER] [-- further options of max serve]

It starts `max serve` on a free loopback port with a cache so small that running requests lose their pages, and sends
what clients send: short and long prompts, shared beginnings, several answers at once, streams, seeds, chats, requests
that are wrong, and clients who hang up. Requests of a fixed set come back all the time and must get the same text each
time. Whenever the engine falls idle it recounts its pages and rows (soak_check.py); at the end none may be held.
Exit status 1 and a line for everything that was not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import torch
from soak_traffic import COMPLETIONS, Answer, Call, Traffic, ask, complaint

from maxserve.core.interfaces.cache import CacheLayer, PlainFormat
from maxserve.plugins.cache.memory_plan import activation_bytes, free_host_memory, page_bytes
from maxserve.testing.live import LiveServer

LENGTH, STEP_TOKENS, ROWS, PAGE, PAGES = 512, 128, 16, 16, 72  # of the server; a cache of 72 pages of 16 tokens
CLIENTS = 12
SIZES = {"vocab_size": 513, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}  # wide: pages outweigh the weights
PAUSE = 1.0  # seconds between two looks at the memory
FLAT = 0.02
MOST_LINES = 50
FAILURE = re.compile(r" (ERROR|CRITICAL) |^(Traceback|[\w.]*(Error|Exception)\b)")  # a line of the server's log


# --- the server ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a memory plan asks of a model."""

    vocab_size: int
    dim: int
    max_length: int
    cache_layers: tuple[CacheLayer, ...]
    prompt_regimes: tuple[int, ...] = ()


def make_model(folder: Path) -> Path:
    """A random Llama with a vocabulary of bytes and pairs of letters."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [first + second for first in string.ascii_lowercase[:16] for second in string.ascii_lowercase[:16]]
    vocabulary = {token: id for id, token in enumerate(["<|end|>", *letters, *pairs])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    fixed = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "eos_token_id": 0}
    rest = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu"}
    config = {**fixed, **rest, **SIZES, **HEADS, "max_position_embeddings": LENGTH}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = {name: 0.2 * torch.randn(shape) if len(shape) > 1 else torch.ones(shape) for name, shape in _tensors()}
    save_file(weights, str(folder / "model.safetensors"), {"format": "pt"})
    return folder


def _tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    width, middle, heads = SIZES["hidden_size"], SIZES["intermediate_size"], HEADS["num_attention_heads"]
    inner = heads * HEADS["head_dim"]
    yield "model.embed_tokens.weight", (SIZES["vocab_size"], width)
    yield "model.norm.weight", (width,)
    for layer in range(SIZES["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj"):
            yield f"{at}self_attn.{name}.weight", (inner, width)
        yield f"{at}self_attn.o_proj.weight", (width, inner)
        yield f"{at}mlp.gate_proj.weight", (middle, width)
        yield f"{at}mlp.up_proj.weight", (middle, width)
        yield f"{at}mlp.down_proj.weight", (width, middle)
        yield f"{at}input_layernorm.weight", (width,)
        yield f"{at}post_attention_layernorm.weight", (width,)


def serve_options(folder: Path) -> list[str]:
    """Options of max serve. The cache gets about PAGES pages: as much of the free memory as they and the rest need."""
    config = json.loads((folder / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["hidden_size"]
    layer = CacheLayer(
        kv_heads=config.get("num_key_value_heads", heads), head_dim=config.get("head_dim") or width // heads
    )
    layers = (layer,) * config["num_hidden_layers"]
    shape = Shape(vocab_size=config["vocab_size"], dim=width, max_length=LENGTH, cache_layers=layers)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    activations = activation_bytes(shape, tokens=STEP_TOKENS, rows=ROWS, itemsize=4)
    share = (weights + activations + PAGES * page_bytes(layers, PAGE, PlainFormat(torch.float32))) / free_host_memory()
    bounds = {"length": LENGTH, "batch-input-tokens": STEP_TOKENS, "batch-size": ROWS}
    given = [text for name, value in bounds.items() for text in (f"--max-{name}", str(value))]
    cache = ["--kv-cache-page-size", str(PAGE), "--kv-cache-format", "float32", "--kvcache-ce-watermark", "1"]
    return ["--model", str(folder), *given, *cache, "--device-memory-utilization", f"{share:.9f}"]


# --- the run --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """All that was seen. `memory`: per look, the bytes of the API process and of the worker."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    repeats: int = 0
    seconds: float = 0.0
    memory: list[tuple[int, int]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, call: Call, answer: Answer) -> None:
        self.answers.setdefault(call.kind, []).append(answer)
        if problem := complaint(call, answer):
            self.wrong.append(f"{call.kind}: {problem}")
        elif call.known:
            text = "\0".join(answer.texts.values())
            self.repeats += call.known in self.known
            if self.known.setdefault(call.known, text) != text:
                self.wrong.append(f"{call.kind}: {call.known} got another text than before")


async def learn(url: str, calls: Sequence[Call], record: Record) -> None:
    """The texts of the fixed set: each request runs alone, with all of the cache to itself."""
    async with httpx.AsyncClient(base_url=url) as http:
        for call in calls:
            record.take(call, await ask(http, call))


async def load(url: str, traffic: Traffic, record: Record, more: Callable[[], bool]) -> None:
    """CLIENTS clients, each with a request after the other while there are `more`."""

    async def client(http: httpx.AsyncClient) -> None:
        while more():
            call = traffic()
            record.take(call, await ask(http, call))

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))


async def watch(processes: Sequence[psutil.Process], record: Record) -> None:
    while True:
        api, worker = (process.memory_info().rss for process in processes)
        record.memory.append((api, worker))
        await asyncio.sleep(PAUSE)


async def loaded(server: LiveServer, traffic: Traffic, record: Record, more: Callable[[], bool]) -> None:
    """The load, with an eye on the server's processes, which must be the same ones at the end."""
    await learn(server.url, traffic.fixed(), record)
    begun = time.perf_counter()
    watching = asyncio.create_task(watch(processes(server), record))
    loading = asyncio.create_task(load(server.url, traffic, record, more))
    await asyncio.wait({watching, loading}, return_when=asyncio.FIRST_COMPLETED)
    record.seconds = time.perf_counter() - begun
    watching.cancel()
    loading.cancel()
    results = await asyncio.gather(watching, loading, return_exceptions=True)
    record.wrong += [f"the run broke off: {r!r}" for r in results if isinstance(r, Exception)]


def processes(server: LiveServer) -> tuple[psutil.Process, psutil.Process]:
    api = psutil.Process(server.process.pid)
    return api, next(p for p in api.children() if "worker" in " ".join(p.cmdline()))


def settle(server: LiveServer, record: Record, seconds: float = 60.0) -> None:
    """Waits until no request runs, has one more end there (the engine recounts), and notes what the cache holds."""
    with httpx.Client(base_url=server.url, timeout=seconds) as http:
        end = time.monotonic() + seconds
        while busy := sum(metrics(http)[f"vllm:num_requests_{state}"] for state in ("running", "waiting")):
            if time.monotonic() > end:
                record.wrong.append(f"{busy:.0f} requests still run or wait with no client left")
                break
            time.sleep(0.1)
        last = http.post(COMPLETIONS, json={"prompt": [17, 18], "max_tokens": 2, "ignore_eos": True})
        if last.status_code != 200:
            record.wrong.append(f"the idle server answers with status {last.status_code}")
        record.metrics = metrics(http)
        if (status := http.post("/reset_prefix_cache").status_code) != 200:
            record.wrong.append(f"/reset_prefix_cache answers with status {status}")


def metrics(http: httpx.Client) -> dict[str, float]:
    """Series by name; those that differ in labels only are added up."""
    found: dict[str, float] = {}
    for line in http.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def soak(options: Sequence[str], traffic: Traffic, more: Callable[[], bool]) -> Record:
    """Starts a server, loads it as long as there is `more` and says what was seen."""
    record = Record()
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    server = LiveServer("--plugin", "soak_check", *options, env={"PYTHONPATH": path})
    try:
        server.wait_ready()
        before = processes(server)
        asyncio.run(loaded(server, traffic, record, more))
        settle(server, record)
        if processes(server) != before:
            record.wrong.append("the worker was replaced by another one")
    except Exception as error:
        record.wrong.append(f"the server is not as it should be: {error!r}")
    finally:
        if status := server.stop():
            record.wrong.append(f"the server ended with exit status {status}")
    record.wrong += [f"the server logs: {line}" for line in server.lines if FAILURE.search(line)]
    return record


# --- the verdict ----------------------------------------------------------------------------------------------------


def violations(record: Record, *, judge_memory: bool) -> list[str]:
    """A line for everything that was not as it should be."""
    found = [f"{count} x {text}" for text, count in Counter(record.wrong).most_common(MOST_LINES)]
    held = record.metrics.get("maxserve_cache_num_used_blocks", float("nan"))  # what is neither free nor cached
    if held != 0:
        found.append(f"{held:.0f} pages are held with no request there")
    if not record.metrics.get("vllm:num_preemptions_total"):
        found.append("no request lost its pages: the cache is not small enough to show anything")
    if not record.repeats:
        found.append("no request of the fixed set came again")
    return found + (grown(record.memory) if judge_memory else [])


def thirds(sizes: Sequence[int]) -> tuple[float, float]:
    """Medians of the middle and of the last third."""
    third = len(sizes) // 3
    return statistics.median(sizes[third : 2 * third]), statistics.median(sizes[2 * third :])


def grown(memory: Sequence[tuple[int, int]]) -> list[str]:
    """A line for each process whose memory is not flat after the first third."""
    if len(memory) < 3:
        return ["too short a run to judge memory"]
    found = []
    for name, sizes in zip(("API process", "worker"), zip(*memory, strict=True), strict=True):
        middle, last = thirds(sizes)
        if abs(last / middle - 1) > FLAT:
            found.append(f"the {name}'s memory went from {middle / 2**20:.1f} to {last / 2**20:.1f} MB")
    return found


def report(record: Record) -> None:
    """Prints the figures."""
    print(f"{'kind':10s} {'count':>7s} {'median s':>9s} {'95 % s':>9s} {'99 % s':>9s} {'first s':>9s} {'95 % s':>9s}")
    for kind, answers in sorted(record.answers.items()):
        whole = _percentiles([a.seconds for a in answers], 0.5, 0.95, 0.99)
        first = _percentiles([a.first for a in answers if a.first is not None], 0.5, 0.95)
        print(f"{kind:10s} {len(answers):7d} " + " ".join(f"{value:9.3f}" for value in (*whole, *first)))
    count, seconds = sum(map(len, record.answers.values())), max(record.seconds, 1e-9)
    figures = record.metrics
    tokens, lost = figures.get("vllm:generation_tokens_total", 0.0), figures.get("vllm:num_preemptions_total", 0.0)
    print(f"{count} requests in {seconds:.0f} s: {count / seconds:.1f} requests/s, {tokens / seconds:.0f} tokens/s")
    pages, held = (figures.get(f"maxserve_cache_num_{name}_blocks", 0.0) for name in ("total", "used"))
    print(
        f"{lost:.0f} preemptions; {pages:.0f} pages, "
        f"{held:.0f} held at the end; {record.repeats} repeats of fixed requests"
    )
    looks = record.memory if len(record.memory) >= 3 else []
    for name, sizes in zip(("API process", "worker"), zip(*looks, strict=True), strict=False):
        middle, last = (size / 2**20 for size in thirds(sizes))
        parts = [f"{size / 2**20:.1f}" for size in sizes[:: max(1, len(sizes) // 10)]]
        print(f"{name} MB: {' '.join(parts)}; middle third {middle:.1f}, last {last:.1f} ({last / middle - 1:+.2%})")


def _percentiles(values: Sequence[float], *parts: float) -> list[float]:
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan") for part in parts]


def counted(requests: int) -> Callable[[], bool]:
    left = iter(range(requests))
    return lambda: next(left, None) is not None


def lasting(seconds: float) -> Callable[[], bool]:
    """True for so long after it was first asked."""
    asked: list[float] = []

    def more() -> bool:
        now = time.monotonic()
        if not asked:
            asked.append(now)
        return now < asked[0] + seconds

    return more


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--requests", type=int, help="so many, however long they take; memory is not judged then")
    parser.add_argument("--model", type=Path, help="folder of a model; a tiny random one is made without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="further options of max serve, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or make_model(Path(folder))
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        more = counted(given.requests) if given.requests else lasting(60 * given.minutes)
        record = soak([*serve_options(model), *given.options], Traffic(given.seed, vocabulary, LENGTH), more)
    report(record)
    found = violations(record, judge_memory=given.requests is None)
    print("\n".join(f"VIOLATION: {line}" for line in found) or "no violation")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
