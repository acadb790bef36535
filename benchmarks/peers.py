"""A comparison with llama.cpp's server on this machine, in the same half hour.

    python benchmarks/peers.py FOLDER --llama-server PROGRAM --gguf FILE [--gguf-python PYTHON]
        [--scenario a b c d e] [--runs 3] [--threads 2] [-- options of max serve]

Both serve the same random or real weights in the same precision, stay up, and are asked in turn: scenario by scenario,
run by run, so that a noisy quarter of an hour is noisy for both. The one that is not asked sleeps. Medians and their
ratio are printed as a table in markdown.

PROGRAM is the server of llama.cpp. The package llama-cpp-python brings its sources:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 && tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \\
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF
    cmake --build build --target llama-server -j

FILE is the model for it; when it does not exist, PYTHON, which needs the packages gguf and numpy, writes it from FOLDER
with gguf_file.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import load
from startup import free_port, memory, tree

from maxserve.testing.live import LiveServer

START_LIMIT = 120.0  # seconds
REST = 4.0  # seconds without work before memory is measured
CONTEXT = 8192  # tokens of the peer's cache for all its sequences: more than any scenario keeps at once
SEQUENCES = 32
# What a scenario is about: the figure, and whether more of it is better.
MEASURES = {
    "a": (("output tok/s", True),),
    "b": (("output tok/s", True),),
    "c": (("output tok/s", True),),
    "d": (("input tok/s", True),),
    "e": (("input tok/s", True), ("first token ms", False)),
}

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is up."""

    url: str
    pid: int


def convert(folder: Path, file: Path, python: str | None) -> None:
    """Writes `file` unless it is there."""
    if file.exists():
        return
    if python is None:
        raise SystemExit(f"{file} does not exist; make it, or name a Python that has gguf with --gguf-python")
    subprocess.run([python, str(Path(__file__).with_name("gguf_file.py")), str(folder), str(file)], check=True)


def peer_command(program: str, file: Path, port: int, threads: int) -> list[str]:
    numbers = {
        "--port": port,
        "--threads": threads,
        "--threads-batch": threads,
        "--parallel": SEQUENCES,
        "--ctx-size": CONTEXT,
    }
    options = [word for name, value in numbers.items() for word in (name, str(value))]
    return [program, "-m", str(file), "--host", "127.0.0.1", "--kv-unified", *options]


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
        raise SystemExit(f"{served.url}: {figures['errors']:.0f} requests of scenario {name} failed")
    return figures


def compare(ours: Served, theirs: Served, names: Sequence[str], vocabulary: int, runs: int) -> list[str]:
    """Lines of the table; the first prompt of each server, which warms it up, counts nowhere."""
    lines = ["| scenario | figure | maxserve | llama.cpp | ratio |", "|---|---|---|---|---|"]
    for name in names:
        taken: tuple[list[Figures], list[Figures]] = ([], [])
        for seed in range(1, runs + 1):
            for served, figures in zip((ours, theirs), taken, strict=True):
                figures.append(run_once(served, name, vocabulary, seed))
        lines += rows(name, *taken)
        print("\n".join(lines[-len(MEASURES[name]) :]), file=sys.stderr, flush=True)
    return lines


def rows(name: str, ours: Sequence[Figures], theirs: Sequence[Figures]) -> list[str]:
    """A line of the table per figure of scenario `name`; a ratio above 1 is always in maxserve's favour."""
    lines = []
    for figure, more_is_better in MEASURES[name]:
        mine, other = (statistics.median(run[figure] for run in runs) for runs in (ours, theirs))
        ratio = mine / other if more_is_better else other / mine
        lines.append(f"| {name} | {figure} | {mine:.1f} | {other:.1f} | {ratio:.2f} |")
    return lines


def memory_row(ours: Served, theirs: Served) -> str:
    """When both have been at rest for a moment, after which a worker gives back what it freed."""
    time.sleep(REST)
    mine, other = (memory(tree(served.pid))[0] for served in (ours, theirs))
    return f"| all | RSS after that, at rest, MB | {mine:.0f} | {other:.0f} | {other / mine:.2f} |"


def main() -> None:
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--llama-server", required=True, help="llama.cpp's server")
    parser.add_argument("--gguf", type=Path, required=True, help="the model for it")
    parser.add_argument("--gguf-python", help="a Python that has the package gguf")
    parser.add_argument("--scenario", nargs="+", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments[:cut])
    convert(given.model, given.gguf, given.gguf_python)
    vocabulary = json.loads((given.model / "config.json").read_text())["vocab_size"]
    port = free_port()
    command = peer_command(given.llama_server, given.gguf, port, given.threads)
    peer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs = Served(f"http://127.0.0.1:{port}", peer.pid)
    server = LiveServer("--model", str(given.model), *arguments[cut + 1 :])
    try:
        wait_healthy(theirs.url, peer)
        ours = Served(server.wait_ready().url, server.process.pid)
        for served in (ours, theirs):
            asyncio.run(load.run(served.url, load.Scenario(2, 2, 32, 8), vocabulary, seed=0))
        lines = compare(ours, theirs, given.scenario, vocabulary, given.runs)
        print("\n".join([*lines, memory_row(ours, theirs)]))
    finally:
        server.stop()
        peer.terminate()
        peer.wait()


if __name__ == "__main__":
    main()
