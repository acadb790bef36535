"""Time from the command to a healthy server, step by step; memory, and CPU while idle.

    python benchmarks/startup.py [FOLDER] [--runs 5] [--idle 30] [--load c] [-- options of max serve]

FOLDER is a model; without one, the model that ships is served. Phases are what /health tells while it loads, looked at
fifty times a second; "before the port" is the time until it is answered at all. With `--load`, memory is told
again after that scenario of load.py.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import socket
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import load
import psutil

from maxserve.testing.live import LiveServer

BETWEEN_LOOKS = 0.02  # seconds
MB = 2**20


def tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def memory(processes: list[psutil.Process]) -> tuple[float, float]:
    """MB: resident of each process added up, and with shared pages counted once (PSS; NaN where nothing tells it)."""
    held = [process.memory_full_info() for process in processes]
    return sum(one.rss for one in held) / MB, sum(getattr(one, "pss", float("nan")) for one in held) / MB


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def health(port: int) -> str:
    """What /health says now: "ok", a phase of the start, or "before the port"."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        said = json.loads(connection.getresponse().read())
    except OSError:  # the port is closed, or open and not answering yet
        return "before the port"
    finally:
        connection.close()
    return "ok" if said["status"] == "ok" else str(said.get("phase") or said["status"])


def watch(server: LiveServer, port: int) -> dict[str, float]:
    """Seconds spent in each phase, in their order, until the server is healthy."""
    spent: dict[str, float] = defaultdict(float)
    then = time.perf_counter()
    while (phase := health(port)) != "ok":
        if server.process.poll() is not None:
            raise SystemExit(f"the server ended:\n{server.output}")
        time.sleep(BETWEEN_LOOKS)
        now = time.perf_counter()
        spent[phase] += now - then
        then = now
    return spent


def measure(options: list[str], idle: float, scenario: str | None, vocabulary: int) -> dict[str, float]:
    """The figures of one start."""
    port = free_port()
    begun = time.perf_counter()
    server = LiveServer(*options, "--port", str(port))
    try:
        phases = watch(server, port)
        figures = {"healthy after, s": time.perf_counter() - begun}
        figures |= {f"  {phase}, s": seconds for phase, seconds in phases.items()}
        processes = tree(server.process.pid)
        figures["RSS, MB"], figures["PSS, MB"] = memory(processes)
        if idle:
            time.sleep(1.0)
            before = cpu_seconds(processes)
            time.sleep(idle)
            figures["idle, CPUs"] = (cpu_seconds(processes) - before) / idle
        if scenario:
            asyncio.run(load.run(server.wait_ready().url, load.SCENARIOS[scenario], vocabulary, seed=0))
            figures["RSS after load, MB"], figures["PSS after load, MB"] = memory(processes)
    finally:
        server.stop()
    return figures


def main() -> None:
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="folder of a model")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle", type=float, default=0.0, help="seconds to watch an idle server")
    parser.add_argument("--load", choices=list(load.SCENARIOS), help="a scenario to run before memory is told again")
    given = parser.parse_args(arguments[:cut])
    vocabulary = json.loads((given.model / "config.json").read_text())["vocab_size"] if given.model else 256
    options = [*(["--model", str(given.model)] if given.model else []), *arguments[cut + 1 :]]
    runs = [measure(options, given.idle, given.load, vocabulary) for _ in range(given.runs)]
    for name in runs[0]:
        values = [run.get(name, 0.0) for run in runs]
        print(f"{name:36s} min {min(values):9.3f}  median {statistics.median(values):9.3f}  max {max(values):9.3f}")


if __name__ == "__main__":
    main()
