"""The cost of a decode step on the host, whatever the model.

    python benchmarks/host_step.py

Plan, inputs, cache and draw are the real ones; model and attention do nothing. Every sequence decodes one token a step,
once with an empty queue and once with a long queue behind. Times are milliseconds
of processor time per step, which other work on the machine changes less than the clock.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from maxserve.core.assembly.assemble import build_pipeline
from maxserve.core.assembly.no_adapters import no_adapters
from maxserve.core.assembly.params import ParamsReader, request_params
from maxserve.core.engine.inputs import InputsBuilder
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.parts import Parts
from maxserve.core.interfaces.cache import CacheContext, CacheLayer
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.runner import Runner, RunnerContext
from maxserve.core.interfaces.sampler import SamplerContext
from maxserve.core.interfaces.scheduler import Limits, SchedulerContext
from maxserve.core.interfaces.step_context import StepContext
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.scheduling import WorkCost

VOCAB = 32
PAGE = 64
CPU = torch.device("cpu")


class NoAttention:
    """Keeps nothing and looks at nothing."""

    def begin(self, inputs: StepInputs) -> None:
        pass

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inputs: StepInputs, *others: Any
    ) -> torch.Tensor:
        return q


class NoModel:
    """The same logits for every row."""

    def prepare(self) -> None:
        pass

    def forward(self, step: StepContext) -> torch.Tensor:
        return torch.zeros(len(step.inputs.input_ids), 1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.linspace(0, 1, VOCAB).expand(len(hidden), VOCAB)


def make_engine(host: Host, limits: Limits, scheduler: str) -> Engine:
    """An engine of built-in parts around a model that does nothing."""
    layer = CacheLayer(kv_heads=1, head_dim=1)
    cache = host.build(
        host.cache_strategies.get("paged"),
        CacheContext(
            layers=(layer,),
            pages=limits.pages,
            page_size=PAGE,
            rows=limits.max_batch_size,
            max_length=limits.max_length,
            dtype=torch.float32,
            device=CPU,
        ),
    )
    return Engine(
        Parts(
            info=_info(limits),
            limits=limits,
            cache=cache,
            policy=host.build(host.schedulers.get(scheduler), SchedulerContext(limits=limits)),
            policy_name=scheduler,
            cost=WorkCost(),
            builder=InputsBuilder(cache, PAGE, CPU),
            runner=_runner(host),
            pipeline=build_pipeline(host, SamplerContext(vocab_size=VOCAB, device=CPU)),
            adapters=no_adapters(),
            read_params=ParamsReader(request_params(host)).read,
        )
    )


def _runner(host: Host) -> Runner:
    context = RunnerContext(model=NoModel(), attention=NoAttention(), vocab_size=VOCAB, device=CPU)
    runner: Runner = host.build(host.model_runners.get("eager"), context)
    return runner


def _info(limits: Limits) -> ModelInfo:
    return ModelInfo(
        name="nothing",
        path="",
        architecture="Nothing",
        max_length=limits.max_length,
        vocab_size=VOCAB,
        eos_token_ids=(),
        dtype="float32",
        device="cpu",
        parameters=0,
        max_batch_size=limits.max_batch_size,
        created=0,
    )


def decoding_engine(host: Host, args: argparse.Namespace, running: int, waiting: int, temperature: float) -> Engine:
    """An engine in which `running` sequences decode and `waiting` requests queue for a row."""
    length = args.prompt + args.steps + 64
    limits = Limits(
        max_batch_size=running,
        max_batch_input_tokens=8192,
        max_batch_total_tokens=None,
        max_length=length,
        page_size=PAGE,
        pages=2 * running * -(-length // PAGE),
        in_flight_batching=args.in_flight,
    )
    engine = make_engine(host, limits, args.scheduler)
    params = SamplingParams(fields={"temperature": {"temperature": temperature}})
    for i in range(running + waiting):
        prompt = tuple((i + j * 7) % VOCAB for j in range(args.prompt))
        engine.add(Request(id=str(i), prompt=prompt, params=params, user=f"user {i % args.users}"))
    while engine.stats().running < running:
        engine.step()
    return engine


def measure(engine: Engine, steps: int) -> list[float]:
    """Milliseconds of each of so many steps."""
    times = []
    for _ in range(steps):
        start = time.process_time()
        engine.step()
        times.append((time.process_time() - start) * 1e3)
    return times


def profile(engine: Engine, steps: int) -> None:
    """Prints where the time of so many steps goes."""
    profiler = cProfile.Profile()
    profiler.runcall(measure, engine, steps)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the host side of a decode step.")
    parser.add_argument("--running", type=int, nargs="+", default=[64, 256, 1024], help="sequences that decode")
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 10_000], help="requests that queue")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.8], help="0 is greedy")
    parser.add_argument("--prompt", type=int, default=100, help="tokens of each prompt")
    parser.add_argument("--steps", type=int, default=100, help="steps to time")
    parser.add_argument("--scheduler", default="continuous", help="policy that plans the steps")
    parser.add_argument("--users", type=int, default=1, help="clients whose requests these are, in turn")
    parser.add_argument("--in-flight", action="store_true", help="mixed batches of prompts and decoding")
    parser.add_argument("--profile", action="store_true", help="print a profile of each case too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    torch.set_num_threads(1)
    host = PluginHost.discover(PluginOptions(), strict=True)
    print(f"{'running':>8} {'waiting':>8} {'temperature':>12} {'median ms':>10} {'p90 ms':>8} {'us/sequence':>12}")
    cases: list[tuple[Any, ...]] = [(r, w, t) for r in args.running for w in args.waiting for t in args.temperature]
    for running, waiting, temperature in cases:
        engine = decoding_engine(host, args, running, waiting, temperature)
        times = sorted(measure(engine, args.steps))
        median, p90 = statistics.median(times), times[len(times) * 9 // 10]
        print(
            f"{running:>8} {waiting:>8} {temperature:>12} {median:>10.3f} {p90:>8.3f} {median * 1e3 / running:>12.2f}",
            flush=True,
        )
        if args.profile:
            profile(decoding_engine(host, args, running, waiting, temperature), args.steps)


if __name__ == "__main__":
    main()
