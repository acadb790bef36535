"""How long from the command to a healthy server, how much memory, how much CPU while idle?

`python benchmarks/startup.py [--runs 5] [--idle 30] [-- options of max serve]`
"""

from __future__ import annotations

import argparse
import statistics
import time

import psutil

from maxserve.core.testing.live import LiveServer


def tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(options: list[str], idle: float) -> tuple[float, float, float]:
    """Seconds to healthy, MB that the processes hold together (PSS), CPU share while idle."""
    begun = time.perf_counter()
    server = LiveServer(*options).wait_ready()
    seconds = time.perf_counter() - begun
    assert server.health() == 200
    processes = tree(server.process.pid)
    memory = sum(process.memory_full_info().pss for process in processes) / 2**20
    time.sleep(1.0 if idle else 0.0)
    before = cpu_seconds(processes)
    time.sleep(idle)
    share = (cpu_seconds(processes) - before) / idle if idle else float("nan")
    server.stop()
    return seconds, memory, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle", type=float, default=0.0, help="seconds to watch an idle server")
    parser.add_argument("options", nargs="*", help="options of max serve, after --")
    given = parser.parse_args()
    results = [measure(given.options, given.idle) for _ in range(given.runs)]
    for name, values in zip(("healthy after s", "memory MB", "idle CPU"), zip(*results, strict=True), strict=True):
        print(f"{name:16s} min {min(values):8.3f}  median {statistics.median(values):8.3f}  max {max(values):8.3f}")


if __name__ == "__main__":
    main()
