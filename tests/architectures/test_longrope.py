"""Prompts on both sides of a longrope model's original length, through a whole engine, against transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.plan import StepPlan
from maxserve.core.engine.sequence import Sequence
from maxserve.core.interfaces.engine import ModelFiles
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.runner import ModelOutput
from maxserve.core.loading.progress import NullProgress
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.runners.eager import EagerRunner
from maxserve.testing.architecture import randomised

ORIGINAL, LENGTH, VOCAB, PAGE = 48, 128, 101, 16
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5], "long_factor": [1.0, 1.5, 2, 3, 4, 6, 8, 9]}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": ORIGINAL,
    "factor": 3.0,
    **FACTORS,
}
ROPES: dict[str, dict[str, Any]] = {
    "longrope": LONGROPE,
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 3.0, "original_max_position_embeddings": ORIGINAL},
}


class Served:
    """A tiny checkpoint, engines made of it, and the logits their last request was drawn from."""

    def __init__(self, folder: Path, rope: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            rope_parameters=dict(rope),
            attn_implementation="eager",
        )
        self.reference = randomised(LlamaForCausalLM(config))
        self.reference.save_pretrained(folder)  # type: ignore[operator]
        self.folder = folder
        self.logits: list[torch.Tensor] = []
        run = EagerRunner.run

        def recording(runner: EagerRunner, inputs: StepInputs) -> ModelOutput:
            output = run(runner, inputs)
            if output.logits is not None:
                self.logits.append(output.logits.clone())
            return output

        monkeypatch.setattr(EagerRunner, "run", recording)

    def engine(self, **options: Any) -> Engine:
        host = PluginHost.discover(PluginOptions(), strict=True)
        files = ModelFiles(
            ref="tiny",
            path=str(self.folder),
            config=json.loads((self.folder / "config.json").read_text()),
            generation_config={},
            weights=tuple(map(str, sorted(self.folder.glob("*.safetensors")))),
            encoding="float32",
            explicit_encoding=False,
            architecture="LlamaForCausalLM",
        )
        typed = {"kv_cache_page_size": PAGE, "max_batch_size": 4, "devices": "cpu", **options}
        return build_engine(resolve(typed, environ={}), host, files, progress=NullProgress())

    def answer(
        self, engine: Engine, prompt: SequenceOf[int], tokens: int, *, preempted_after: int | None = None
    ) -> tuple[list[int], torch.Tensor, int]:
        """The likeliest continuation, the logits of each of its tokens, and how much of the prompt was cached."""
        self.logits.clear()
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
        engine.add(Request(id="one", prompt=tuple(prompt), params=params))
        outputs = []
        while engine.busy:
            outputs += engine.step()
            if len(outputs) == preempted_after:
                preempt(engine)
                preempted_after = None
        return [t for o in outputs for t in o.tokens], torch.cat(self.logits), outputs[-1].cached

    def expected(self, prompt: SequenceOf[int], answer: SequenceOf[int]) -> torch.Tensor:
        """transformers' logits of each token of an answer: the prompt in one call, then a call per token."""
        part, past, rows = list(prompt), None, []
        with torch.inference_mode():
            for token in answer:
                out = self.reference(torch.tensor([part]), past_key_values=past, use_cache=True)
                rows.append(out.logits[0, -1])
                part, past = [token], out.past_key_values
        return torch.stack(rows)


def preempt(engine: Engine) -> None:
    """Takes away whatever those who run have in the cache."""
    plan = StepPlan(engine._queues, engine._cache, engine._limits, engine._free_rows, cost=engine._parts.cost)
    for sequence in list(engine._queues.running.values()):
        plan.preempt(sequence.view)
    assert plan.preempted
    engine._settle(plan)
    engine.reset_prefix_cache()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Served:
    return Served(tmp_path, ROPES[getattr(request, "param", "longrope")], monkeypatch)


def salt_of(length: int, salt: str, regimes: tuple[int, ...]) -> str:
    request = Request(id="x", prompt=(0,) * length, salt=salt)
    return Sequence(request, limit=length + 1, ends=frozenset(), params={}, regimes=regimes).salt


def test_salts_tell_regimes_apart_whatever_a_request_calls_its_own() -> None:
    salts = ["", "a", "0:", "1:", "0:a", "1:a", "1:0:a"]
    found = {salt_of(length, salt, (4, 8)) for salt in salts for length in (4, 5, 9)}
    assert len(found) == 3 * len(salts)
    assert salt_of(3, "a", (4, 8)) == salt_of(4, "a", (4, 8))
    assert [salt_of(9, salt, ()) for salt in salts] == salts


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))]


def assert_close(logits: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("budget", [8192, 7])
@pytest.mark.parametrize("length", [5, ORIGINAL - 3, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 100, LENGTH - 1])
def test_generation_on_both_sides_of_the_original_length(served: Served, length: int, budget: int) -> None:
    """Also in chunks of a few tokens."""
    prompt = prompt_of(length)
    answer, logits, _ = served.answer(served.engine(max_batch_input_tokens=budget), prompt, 8)
    assert len(answer) == min(8, LENGTH - length)
    assert_close(logits, served.expected(prompt, answer))


@pytest.mark.parametrize("budget", [8192, 7])
@pytest.mark.parametrize("length", [ORIGINAL - 8, ORIGINAL, ORIGINAL + 1])
def test_a_text_that_is_computed_again_after_its_preemption(served: Served, length: int, budget: int) -> None:
    """The prompt's length decides, not how much is computed in one go now."""
    prompt = prompt_of(length)
    engine = served.engine(max_batch_input_tokens=budget)
    answer, logits, _ = served.answer(engine, prompt, 20, preempted_after=14)
    assert_close(logits, served.expected(prompt, answer))


def test_a_chat_that_grows_beyond_the_original_length(served: Served) -> None:
    """Its second turn repeats the first with its answer. What is cached is of the first turn's regime: not for it."""
    engine = served.engine()
    first = prompt_of(ORIGINAL - 8)
    answer, logits, _ = served.answer(engine, first, 20)
    assert_close(logits, served.expected(first, answer))
    second = [*first, *answer, *prompt_of(5, seed=1)]
    for cached in (0, len(second) // PAGE * PAGE):
        again, logits, found = served.answer(engine, second, 6)
        assert found == cached, "prefixes are shared within a regime and nowhere else"
        assert_close(logits, served.expected(second, again))
    fresh, _, _ = served.answer(served.engine(), second, 6)
    assert again == fresh


def test_prefixes_are_shared_within_the_original_length(served: Served) -> None:
    """Also those that a longer text of the same regime has left."""
    engine = served.engine()
    first = prompt_of(ORIGINAL - 8)
    answer, _, _ = served.answer(engine, first, 20)
    second = [*first, *answer][:ORIGINAL]
    again, logits, found = served.answer(engine, second, 6)
    assert found == ORIGINAL - PAGE
    assert_close(logits, served.expected(second, again))


@pytest.mark.parametrize("served", ROPES, indirect=True)
def test_a_lower_length_of_the_server_changes_nothing(served: Served) -> None:
    """--max-length bounds requests. The model's rotary positions are as it was made, on both sides of the bound."""
    for bound, length in ((ORIGINAL - 2, ORIGINAL - 12), (ORIGINAL + 12, ORIGINAL + 2), (ORIGINAL + 12, ORIGINAL - 4)):
        prompt = prompt_of(length)
        answer, logits, _ = served.answer(served.engine(max_length=bound), prompt, 8)
        unbounded, wanted, _ = served.answer(served.engine(), prompt, 8)
        assert answer == unbounded
        assert torch.equal(logits, wanted)


@pytest.mark.parametrize("served", ["dynamic"], indirect=True)
@pytest.mark.parametrize("length", [LENGTH // 2, LENGTH - 2, LENGTH - 1])
def test_dynamic_up_to_the_length_of_the_model(served: Served, length: int) -> None:
    prompt = prompt_of(length)
    answer, logits, _ = served.answer(served.engine(), prompt, 8)
    assert_close(logits, served.expected(prompt, answer))
