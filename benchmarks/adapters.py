"""What adapters cost: tokens per second of 32 sequences with none, 1, 4 and 16 adapters, in turns with a plain model.

    python benchmarks/adapters.py FOLDER [--rank 16] [--streams 32] [--tokens 48] [--rounds 7]

FOLDER is a model. Adapters of its attention and feed-forward projections are made with random factors in a folder of
their own, which is removed again. Times are those of decoding steps alone, in which every sequence has one row; each
figure is the median over rounds of the quotient of that round. Beside it stands the floor: what would be left if a step
took as much longer as it takes to read the factors of its adapters once, as fast as memory gives them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from maxserve import LLM
from maxserve.plugins.cpu.memory import weight_memory

COUNTS = (0, 1, 4, 16)
PROJECTIONS = re.compile(r"layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$")


def make_adapter(model: Path, folder: Path, rank: int, seed: int) -> int:
    """Bytes of its factors in the type of the model's weights."""
    bytes = 0
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            for name in filter(PROJECTIONS.search, stored.keys()):
                outputs, inputs = stored.get_slice(name).get_shape()
                bytes += rank * (outputs + inputs) * stored.get_tensor(name).itemsize
                module = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
                tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.02
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return bytes


def reading(bytes: int, rounds: int) -> float:
    """Bytes a second of a plain read of so many, on large pages as weights are; the best of some rounds."""
    memory = weight_memory.zeros(bytes // 4, dtype=torch.float32)
    memory.fill_(1.0)
    took = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        memory.sum()
        took.append(time.perf_counter() - begun)
    return bytes / min(took)


def decoding(llm: LLM, adapters: list[str], streams: int, tokens: int) -> float:
    """Seconds of a decoding step; of several adapters each sequence has one."""
    prompts = [[1 + (7 * i + j) % 1000 for j in range(16)] for i in range(streams)]
    lora = [adapters[i % len(adapters)] for i in range(streams)] if adapters else None
    took = []
    for length in (2, tokens + 2):
        begun = time.perf_counter()
        llm.generate(prompts, lora=lora, max_tokens=length, ignore_eos=True, temperature=0.0)
        took.append(time.perf_counter() - begun)
    return (took[1] - took[0]) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = [f"a{i}" for i in range(max(COUNTS))]
        for seed, name in enumerate(names):
            bytes = make_adapter(chosen.model, Path(folder, name), chosen.rank, seed)
        options: dict[str, Any] = {"max_batch_size": chosen.streams, "max_length": 512}
        plain = LLM(str(chosen.model), **options)
        paths = [f"{name}={folder}/{name}" for name in names]
        adapted = LLM(
            str(chosen.model),
            enable_lora=True,
            lora_paths=paths,
            max_num_loras=len(names),
            max_lora_rank=chosen.rank,
            **options,
        )
        compare(plain, adapted, names, bytes, chosen)


def compare(plain: LLM, adapted: LLM, names: list[str], bytes: int, chosen: argparse.Namespace) -> None:
    took: dict[int | None, list[float]] = {}
    turns, order = [None, *COUNTS], random.Random(0)
    for round in range(chosen.rounds + 1):  # the first one is not counted
        order.shuffle(turns)  # what ran before leaves the caches as they are
        for count in turns:
            llm, own = (plain, []) if count is None else (adapted, names[:count])
            seconds = decoding(llm, own, chosen.streams, chosen.tokens)
            if round:
                took.setdefault(count, []).append(seconds)
    base = took[None]
    step, speed = statistics.median(base), reading(bytes * max(COUNTS), chosen.rounds)
    print(f"{chosen.streams} sequences, a step of the plain model {step * 1e3:.1f} ms; memory {speed / 1e9:.1f} GB/s")
    for count in COUNTS:
        gains = [p / s for p, s in zip(base, took[count], strict=True)]
        read = min(count, chosen.streams) * bytes
        print(
            f"{count:2} adapters of rank {chosen.rank}: {statistics.median(gains):.3f} of its throughput; "
            f"factors of {read / 1e6:.0f} MB, floor {step / (step + read / speed):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
