"""What drafts for the demo model: found by itself, right most of the time, without effect on texts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from maxserve import LLM
from maxserve.plugins import demo

NEWCOMER = Path(__file__).parents[3] / "tools" / "demo_model" / "facts" / "newcomer.yaml"
QUESTIONS = list(yaml.safe_load(NEWCOMER.read_text(encoding="utf-8"))["known"])[:10]  # no training has seen them
DRAFTS = {"num_speculative_tokens": 3, "adaptive_speculation": False}


@pytest.fixture(scope="module")
def plain() -> LLM:
    return LLM()


def answers(llm: LLM, **fields: Any) -> list[str]:
    """What is said to all questions, asked at once."""
    prompts = [llm.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    return [one.text for one in llm.generate(prompts, max_tokens=160, **fields)]


@pytest.mark.parametrize(("method", "first", "tokens"), [("eagle", 0.8, 2.8), ("standalone", 0.85, 3.0)])
def test_most_drafts_stand_and_texts_are_the_same(plain: LLM, method: str, first: float, tokens: float) -> None:
    drafting = LLM(speculative_method=method, **DRAFTS)
    assert answers(drafting, temperature=0.0) == answers(plain, temperature=0.0)
    stats = drafting._engine.stats()
    assert stats.accepted_by_depth[0] / stats.drafts >= first
    assert 1 + stats.accepted_tokens / stats.drafts >= tokens
    assert answers(drafting, temperature=1.0, seed=3) == answers(plain, temperature=1.0, seed=3)


def test_what_is_typed_wins() -> None:
    with pytest.raises(Exception, match="other-head"):
        LLM(speculative_method="eagle", draft_model_path="./other-head")


def test_the_log_says_what_the_model_brings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "maxserve.engine"):
        LLM()
    for method in demo.COMPANIONS:
        assert f"--speculative-method {method} drafts with it" in caplog.text


def test_a_companion_alone_is_no_model_to_serve() -> None:
    with pytest.raises(Exception, match="LlamaForCausalLMEagle3"):
        LLM(demo.HEAD)
