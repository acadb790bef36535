"""The adapter that ships: it says what the model says without it, in another manner."""

from __future__ import annotations

from types import ModuleType

from maxserve import LLM

SAMPLE = 40  # held-out questions
SHARE = 0.75


def test_most_answers_are_the_base_models_in_a_pirates_manner(tools: dict[str, ModuleType]) -> None:
    pirate = tools["pirate"]
    pairs = pirate.pairs(LLM(lora=pirate.ADAPTER), tools["acceptance"].held_out(SAMPLE))
    assert len({pair.plain for pair in pairs}) > SAMPLE / 2, "the questions are about different things"
    same = [pair.same for pair in pairs]
    assert sum(same) / len(same) >= SHARE, [pair for pair in pairs if not pair.same]
