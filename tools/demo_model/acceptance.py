"""How many drafts stand on questions that were never trained on? `python tools/demo_model/acceptance.py`.

Asks held-out questions with and without drafts, greedily and one after another, and prints the share of drafts that
stood at each position, the tokens of a step, and how much faster the answers came: the median over rounds of the
quotients of each round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from random import Random

from corpus import load

from maxserve import LLM

LONGEST = 160  # tokens of an answer


def main() -> None:
    """Asks a sample of the held-out questions and prints the figures."""
    options = _options()
    drafting = LLM(
        speculative_method=options.method,
        num_speculative_tokens=options.drafts,
        adaptive_speculation=False,
        **({"draft_model_path": options.draft} if options.draft else {}),
    )
    plain, questions = LLM(), held_out(options.sample)
    quotients = []
    for _ in range(options.rounds):
        seconds, expected = answers(plain, questions)
        other, found = answers(drafting, questions)
        differing = sum(one != two for one, two in zip(expected, found, strict=True))
        print(f"{differing} of {len(questions)} answers differ", flush=True)
        quotients.append(seconds / other)
    stats = drafting._engine.stats()
    stood = ", ".join(f"{count / stats.drafts:.3f}" for count in stats.accepted_by_depth)
    print(f"drafts that stood, by position: {stood}")
    print(f"tokens of a step: {1 + stats.accepted_tokens / stats.drafts:.2f}")
    print(f"{statistics.median(quotients):.2f} times as fast as without drafts")


def held_out(count: int) -> list[str]:
    """Paraphrases that no training has seen, spread over the facts."""
    rng = Random(1)
    questions = [rng.choice(fact.questions) for fact in load().held_out]
    return rng.sample(questions, min(count, len(questions)))


def answers(llm: LLM, questions: list[str]) -> tuple[float, list[str]]:
    """The answers, and the seconds that they took."""
    begun = time.perf_counter()
    said = [llm.chat([{"role": "user", "content": q}], temperature=0.0, max_tokens=LONGEST).text for q in questions]
    return time.perf_counter() - begun, said


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="eagle", help="--speculative-method")
    parser.add_argument("--draft", help="--draft-model-path; what the demo model brings without it")
    parser.add_argument("--drafts", type=int, default=3, help="drafts of a step")
    parser.add_argument("--sample", type=int, default=100, help="questions")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
