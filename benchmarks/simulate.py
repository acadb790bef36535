"""What replicas of a model would do with a load: discrete events, without a model, threads or sockets.

    python benchmarks/simulate.py [--replicas 8] [--rate 1000 | --clients 32] [--step 5000,20,0.02,0.001] ...
    python benchmarks/simulate.py --measure FOLDER

The scheduler, the bookkeeping of pages, the engine's step loop and the balancer are those of a server. A step takes
`--step` BASE,TOKEN,CONTEXT,PAIR: microseconds for a step, and for each token that it computes, each token of context
that its sequences read, and each pair of a token and one that it sees. `--measure` fits these to steps of a real model
on one thread of this machine. Requests come at random times, `--rate` in a second, or as those before them end
(`--clients`). What the API process takes is left out.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from maxserve.core.engine.in_flight import InFlightStep
from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.cache import CacheContext
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.scheduler import Limits, SchedulerContext, Work
from maxserve.plugins.cache.paged.cache import PagedCache
from maxserve.plugins.replicas.least_cost import LeastCost, Ticket
from maxserve.plugins.schedulers.continuous import Continuous
from maxserve.plugins.schedulers.work_cost import WorkCost
from maxserve.testing.simulation import simulated_clock, simulated_parts

FIRST_TOKEN = 10  # of prompts; the model of the simulation only ever draws the token 1


class StepTime(NamedTuple):
    """Seconds of a step by what it computes."""

    base: float
    token: float
    context: float
    pair: float

    def of(self, work: Work) -> float:
        return self.base + self.token * work.tokens + self.context * work.context + self.pair * work.pairs


class Replica(Engine):
    """A worker's engine whose steps take what a StepTime says."""

    def __init__(self, limits: Limits, step_time: StepTime) -> None:
        cache = PagedCache(
            CacheContext(
                layers=(),
                pages=limits.pages,
                page_size=limits.page_size,
                rows=limits.rows,
                max_length=limits.max_length,
                dtype=torch.float32,
                device=torch.device("cpu"),
            )
        )
        policy = Continuous(SchedulerContext(limits=limits))
        super().__init__(simulated_parts(limits, cache, policy=policy, cost=WorkCost()))
        self._step_time = step_time
        self.took = 0.0

    def run(self, now: float) -> list[Any]:
        """The outputs of a step that begins now, and ends `took` seconds later; 0: there was nothing to do."""
        self.took = 0.0
        with simulated_clock(now):
            return self.step()

    def _learn(self, in_flight: InFlightStep, seconds: float) -> None:
        self.took += self._step_time.of(Work.of(in_flight.step.starts, in_flight.step.stops))
        super()._learn(in_flight, self.took)


class InTurn:
    """A balancer that knows nothing: one request for each replica, over and over."""

    def __init__(self, replicas: int) -> None:
        self._turns = itertools.cycle(range(replicas))

    def choose(self, prompt: Sequence[int], root: bytes, among: Sequence[int]) -> Ticket:
        return Ticket(next(self._turns), 0)

    def began(self, ticket: Ticket) -> None: ...
    def ended(self, ticket: Ticket) -> None: ...


class Asked:
    """A request, from its arrival to its end."""

    def __init__(self, request: Request, arrived: float, ticket: Ticket) -> None:
        self.request, self.arrived, self.ticket = request, arrived, ticket
        self.times: list[float] = []  # of its tokens
        self.cached = 0


class Simulation:
    """Replicas, a balancer, and the events between them: (time, number, what happens then)."""

    def __init__(self, replicas: Sequence[Replica], balancer: Any) -> None:
        self.replicas, self.balancer = replicas, balancer
        self.now = 0.0
        self.done: list[Asked] = []
        self.on_end: Callable[[], None] = lambda: None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._asked: dict[str, Asked] = {}
        self._steps: set[int] = set()  # replicas in the middle of a step, or about to begin one
        self._inboxes: list[list[Request]] = [[] for _ in replicas]

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def ask(self, request: Request) -> None:
        ticket = self.balancer.choose(request.prompt, b"", range(len(self.replicas)))
        self._asked[request.id] = Asked(request, self.now, ticket)
        self._inboxes[ticket.replica].append(request)
        if ticket.replica not in self._steps:
            self._begin(ticket.replica)

    def _begin(self, number: int) -> None:
        replica, inbox = self.replicas[number], self._inboxes[number]
        self._steps.discard(number)
        with simulated_clock(self.now):
            while inbox:
                replica.add(inbox.pop(0))
            pause = replica.pause
        if pause is None:
            return
        self._steps.add(number)
        outputs = replica.run(self.now)
        end = self.now + (replica.took or max(pause, 1e-3))
        self.at(end, lambda: self._deliver(number, outputs))

    def _deliver(self, number: int, outputs: Sequence[Any]) -> None:
        for output in outputs:
            asked = self._asked[output.id]
            if output.tokens and not asked.times:
                asked.cached = output.cached
                self.balancer.began(asked.ticket)
            asked.times += [self.now] * len(output.tokens)
            if output.finish is not None:
                self.balancer.ended(asked.ticket)
                self.done.append(self._asked.pop(output.id))
                self.on_end()
        self._begin(number)


def requests(given: argparse.Namespace, rng: random.Random) -> Iterator[Request]:
    """Prompts that begin with one of some prefixes, and go on in their own way."""
    for number in range(given.requests):
        which = rng.randrange(given.prefixes) if given.prefixes else 0
        shared = [FIRST_TOKEN + which] * (given.prefix_length if given.prefixes else 0)
        own = [FIRST_TOKEN + given.prefixes + number] * max(1, given.prompt - len(shared))
        params = SamplingParams(max_tokens=given.output, ignore_eos=True)
        yield Request(id=str(number), prompt=(*shared, *own), params=params)


def simulate(given: argparse.Namespace) -> dict[str, float]:
    """The figures of a load."""
    rng = random.Random(given.seed)
    limits = Limits(
        max_batch_size=given.batch,
        max_batch_input_tokens=8192,
        max_batch_total_tokens=None,
        max_length=given.prompt + given.prefix_length + given.output + 1,
        page_size=given.page_size,
        pages=given.pages,
        in_flight_batching=True,
        mixed_step_seconds=given.mixed_step_ms / 1000,
    )
    step_time = StepTime(*(float(part) * 1e-6 for part in given.step.split(",")))
    balancer = InTurn(given.replicas) if given.balancer == "in_turn" else LeastCost(given.replicas, 32, given.page_size)
    simulation = Simulation([Replica(limits, step_time) for _ in range(given.replicas)], balancer)
    waiting = requests(given, rng)
    if given.clients:

        def following() -> None:
            if (request := next(waiting, None)) is not None:
                simulation.ask(request)

        simulation.on_end = following
        for _ in range(given.clients):
            simulation.at(0.0, following)
    else:
        when = 0.0
        for request in waiting:
            when += rng.expovariate(given.rate)
            simulation.at(when, lambda request=request: simulation.ask(request))  # type: ignore[misc]
    begun = time.perf_counter()
    simulation.run()
    return figures(simulation, given) | {"seconds of the simulation itself": time.perf_counter() - begun}


def figures(simulation: Simulation, given: argparse.Namespace) -> dict[str, float]:
    done, whole = simulation.done, simulation.now
    first = sorted(asked.times[0] - asked.arrived for asked in done)
    gaps = sorted(later - before for asked in done for before, later in itertools.pairwise(asked.times))
    prompts = sum(len(asked.request.prompt) for asked in done)
    tokens = [sum(len(asked.times) for asked in done if asked.ticket.replica == n) for n in range(given.replicas)]
    return {
        "requests": len(done),
        "simulated seconds": whole,
        "output tokens a second": sum(tokens) / whole,
        "first token, ms, mean": 1000 * statistics.fmean(first),
        "first token, ms, median": 1000 * statistics.median(first),
        "first token, ms, 99 of 100": 1000 * first[int(0.99 * (len(first) - 1))],
        "between tokens, ms, median": 1000 * statistics.median(gaps) if gaps else 0.0,
        "between tokens, ms, 99 of 100": 1000 * gaps[int(0.99 * (len(gaps) - 1))] if gaps else 0.0,
        "prompt tokens found in caches, %": 100 * sum(asked.cached for asked in done) / prompts,
        "tokens of the busiest replica, of an equal part": max(tokens) / sum(tokens) * given.replicas,
    }


def measure(folder: str) -> StepTime:
    """Fits a StepTime to steps of a model on one thread of this machine, prompts and answers of many lengths."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from maxserve import LLM

    seen: list[tuple[Work, float]] = []
    learn = WorkCost.learn

    def noted(self: WorkCost, work: Work, seconds: float) -> None:
        seen.append((work, seconds))
        learn(self, work, seconds)

    torch.set_num_threads(1)
    llm = LLM(folder, devices="cpu", max_batch_size=32)
    setattr(WorkCost, "learn", noted)  # noqa: B010
    setattr(WorkCost, "wants", lambda self, number, *, draws, decodes: True)  # noqa: B010
    rng = random.Random(0)
    for many in (1, 2, 4, 8, 16, 32):
        for length in (16, 64, 192):
            prompts = [[rng.randrange(10, 200) for _ in range(length)] for _ in range(many)]
            llm.generate(prompts, max_tokens=24, ignore_eos=True)
    rows = np.array([[1.0, work.tokens, work.context, work.pairs] for work, _ in seen])
    took = np.array([seconds for _, seconds in seen])
    best, left = np.zeros(4), np.inf
    for kept in itertools.product((False, True), repeat=4):  # no part is negative
        chosen = np.flatnonzero(kept)
        if len(chosen):
            weighed = rows[:, chosen] / took[:, None]  # relative errors count
            found = np.linalg.lstsq(weighed, np.ones(len(took)), rcond=None)[0]
            error = float(((weighed @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < left:
                best, left = np.zeros(4), error
                best[chosen] = found
    return StepTime(*best.tolist())


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second, at random times")
    parser.add_argument("--clients", type=int, default=0, help="instead of a rate: who asks again once answered")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--prompt", type=int, default=512, help="tokens, with those of the prefix")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--prefixes", type=int, default=0, help="how many prefixes prompts share")
    parser.add_argument("--prefix-length", type=int, default=0, help="tokens")
    parser.add_argument("--batch", type=int, default=64, help="requests of a replica at once")
    parser.add_argument("--pages", type=int, default=4096, help="of a replica")
    parser.add_argument("--page-size", type=int, default=64, help="tokens")
    parser.add_argument("--mixed-step-ms", type=float, default=50.0)
    parser.add_argument("--step", default="5000,20,0.02,0.001", help="BASE,TOKEN,CONTEXT,PAIR, microseconds")
    parser.add_argument("--balancer", choices=("least_cost", "in_turn"), default="least_cost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", metavar="FOLDER", help="print the --step of a model on one thread, and end")
    return parser


def main() -> None:
    given = arguments().parse_args()
    if given.measure:
        print("--step " + ",".join(f"{1e6 * part:.4g}" for part in measure(given.measure)))
        return
    for name, value in simulate(given).items():
        print(f"{name:50s} {value:12.1f}")


if __name__ == "__main__":
    main()
