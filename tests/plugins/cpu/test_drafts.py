"""All drafts of a head in one call, beside the same drafts one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maxserve import LLM
from maxserve.interfaces.request import Request
from maxserve.plugins.cpu.drafts import NativeDrafts
from maxserve.plugins.speculation.heads import HeadDrafter
from maxserve.testing.draft_head import DraftHeadCases
from maxserve.testing.served import GREEDY
from tests.plugins.speculation.test_eagle import Eagle1
from tests.plugins.speculation.test_mtp import MiMo

QUESTIONS = ("How do I set the port?", "What is the capital of France?", "Which option sets the KV cache page size?")
CAST = "allow_safetensors_weights_fp32_bf6_bidirectional_cast"
FLOAT32 = {"quantization_encoding": "float32", CAST: True}
FLOAT32_HEAD = {"draft_quantization_encoding": "float32", f"draft_{CAST}": True}


class Calls:
    """What calls of compiled drafts gave, and what heads proposed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_once = 0
        self.proposed: list[list[list[int]]] = []
        call, propose = NativeDrafts.__call__, HeadDrafter.propose

        def counted(drafts: NativeDrafts, *args: Any) -> Any:
            found = call(drafts, *args)
            self.at_once += found is not None
            return found

        def noted(drafter: HeadDrafter, step: Any) -> Any:
            found = propose(drafter, step)
            self.proposed.append([list(each) for each in found])
            return found

        monkeypatch.setattr(NativeDrafts, "__call__", counted)
        monkeypatch.setattr(HeadDrafter, "propose", noted)


def drafts_of(calls: Calls, options: dict[str, Any]) -> tuple[list[str], list[list[list[int]]], int]:
    """Texts of several lengths that end at their limits; what was proposed, and how many calls gave drafts."""
    llm = LLM(
        speculative_method="eagle", adaptive_speculation=False, num_speculative_tokens=4, max_length=128, **options
    )
    prompts = [llm.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    calls.proposed.clear()
    calls.at_once = 0
    found = [llm.generate(prompts[i:], max_tokens=20 + 3 * i, temperature=0.0) for i in range(3)]
    return [each.text for texts in found for each in texts], calls.proposed.copy(), calls.at_once


class SharingAHead(DraftHeadCases):
    """A head that computes its logits with the target's."""

    def test_drafts_are_one_call_and_those_of_one_pass_after_another(
        self, served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = Calls(monkeypatch)
        greedy = [request for request in self.requests() if request.params.fields == GREEDY]
        texts, proposed, at_once = self.drafted(calls, served, greedy)
        assert at_once > 10
        monkeypatch.setattr(NativeDrafts, "__call__", lambda *_: None)
        assert self.drafted(calls, served, greedy) == (texts, proposed, 0)

    def drafted(self, calls: Calls, served: Callable[..., Any], requests: list[Request]) -> tuple[Any, Any, int]:
        engine = served(drafting=True, num_speculative_tokens=3)
        calls.proposed.clear()  # what was tried at the start was drawn
        calls.at_once = 0
        texts = self.texts(engine, requests)
        return texts, calls.proposed.copy(), calls.at_once


class TestMiMo(MiMo, SharingAHead):
    pass


class TestEagle1(Eagle1, SharingAHead):
    pass


@pytest.mark.parametrize("options", [{}, FLOAT32, FLOAT32_HEAD], ids=["bfloat16", "float32 target", "float32 head"])
def test_drafts_are_those_of_one_pass_after_another(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    texts, proposed, at_once = drafts_of(calls, options)
    assert at_once == sum(any(step) for step in proposed) > 10, "the first of a text, behind its prompt, are among them"
    assert len({len(each) for step in proposed for each in step if each}) > 2, "near their limits they have fewer"
    monkeypatch.setattr(NativeDrafts, "__call__", lambda *_: None)
    assert drafts_of(calls, options) == (texts, proposed, 0)


def test_requests_that_draw_have_their_drafts_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    llm = LLM(speculative_method="eagle", adaptive_speculation=False, max_length=128)
    cases: list[dict[str, Any]] = [{"temperature": 1.0}, {"temperature": 0.0, "frequency_penalty": 1.0}]
    for params in cases:
        calls.at_once = 0
        llm.generate("How do I", max_tokens=20, ignore_eos=True, **params)
        assert calls.at_once == 0, params
    assert llm._engine.stats().draft_tokens > 0
