"""What a format of the KV cache costs: the error of logits, tokens per GB, and the time of a step with a long context.

    python benchmarks/cache_formats.py --model /path/to/model [--context 4000] [--rounds 3]

The reference is the same model over a float32 cache, with exact arithmetic. Errors are those of the log probability of
each token of a text that the model wrote itself, and of the likeliest token being another one. Times are of steps that
decode one request behind `--context` tokens, formats in turns, the median of each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions

FORMATS = ("float32", "bfloat16", "float8_e4m3fn", "int8")
GREEDY = {"temperature": {"temperature": 0.0}}
GB = 10**9


def build(host: PluginHost, model: str, format: str, **options: Any) -> Engine:
    """An engine for one request, over a cache in that format."""
    typed = {"model_path": model, "kv_cache_format": format, "max_batch_size": 1, **options}
    settings = resolve(typed, environ={}, sections=host.plugin_sections())
    return build_engine(
        settings, host, resolve_model(settings.model, host, progress=NullProgress()), progress=NullProgress()
    )


def run(engine: Engine, prompt: Sequence[int], tokens: int, *, prompt_logprobs: bool = False) -> list[Any]:
    """The outputs of one request."""
    fields: dict[str, Any] = {"prompt_logprobs": 1} if prompt_logprobs else {}
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=1, fields=GREEDY, **fields)
    engine.add(Request(id="one", prompt=tuple(prompt), params=params))
    outputs: list[Any] = []
    while engine.busy:
        outputs += engine.next_outputs()
    assert all(output.error is None for output in outputs), outputs
    return outputs


def page_bytes(engine: Engine) -> float:
    """Bytes that the cache has for a token."""
    layers: Sequence[Any] = engine._cache.layers
    return sum(part[0].nbytes for layer in layers for part in layer.parts) / layers[0].keys.shape[1]


def scored(engine: Engine, text: Sequence[int]) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Of each token of a text behind the first: its log probability, and the likeliest in its place."""
    entries = [entry for output in run(engine, text, 1, prompt_logprobs=True) for entry in output.prompt_logprobs]
    return np.array([entry.logprob for entry in entries]), [entry.ids[0] for entry in entries]


def step_times(engines: dict[str, Engine], context: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a decode step behind so many tokens: the median of all steps, formats in turns."""
    prompt = np.random.default_rng(0).integers(10, 1000, context).tolist()
    times: dict[str, list[float]] = {format: [] for format in engines}
    for engine in engines.values():
        run(engine, prompt, 2)
    for _ in range(rounds):
        for format, engine in engines.items():
            engine.add(Request(id="one", prompt=tuple(prompt), params=SamplingParams(max_tokens=20, ignore_eos=True)))
            engine.next_outputs()
            while engine.busy:
                begun = time.perf_counter()
                engine.next_outputs()
                times[format].append(1000 * (time.perf_counter() - begun))
    return {format: statistics.median(own) for format, own in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, default=4000)
    parser.add_argument("--text", type=int, default=1000, help="tokens of the text whose logits are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    given = parser.parse_args()
    host = PluginHost.discover(PluginOptions(), strict=True)
    exact = build(host, given.model, "float32", native__precision="exact")
    start = np.random.default_rng(1).integers(10, 1000, 16).tolist()
    text = start + [token for output in run(exact, start, given.text) for token in output.tokens]
    wanted, likeliest = scored(exact, text)
    engines = {format: build(host, given.model, format) for format in given.formats}
    times = step_times(engines, given.context, given.rounds) if given.rounds else {}
    print(f"{'format':<15} {'tokens per GB':>13} {'rms error':>10} {'largest':>9} {'other token':>12} {'step ms':>8}")
    for format, engine in engines.items():
        found, top = scored(engine, text)
        error = found - wanted
        other = np.mean([a != b for a, b in zip(top, likeliest, strict=True)])
        print(
            f"{format:<15} {GB / page_bytes(engine):>13,.0f} {np.sqrt(np.mean(error**2)):>10.4f} "
            f"{np.abs(error).max():>9.3f} {100 * other:>10.2f} % {times.get(format, float('nan')):>8.2f}"
        )


if __name__ == "__main__":
    main()
