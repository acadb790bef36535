"""Checks of model runners; and one that records the steps it runs, and replays those that come again.

class TestAcme(ModelRunnerChecks):
    runner = "acme"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from maxserve.architectures.layers.config import from_transformers
from maxserve.core.interfaces.architecture import Model
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.runner import ModelOutput, ModelRunner, Runner, RunnerContext
from maxserve.testing.architecture import randomised
from maxserve.testing.resolve import installed, load, resolve
from maxserve.testing.tiny_cache import Part, TinyCache, make_step

__all__ = ["ModelRunnerChecks", "ReplayRunner"]

Key = tuple[bytes, ...]
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
# Tokens by row: prompts, decoding, both at once, and steps of equal sizes, which may be replayed.
STEPS: Sequence[dict[int, int]] = (
    {0: 9, 2: 4},
    {0: 1, 2: 1},
    {0: 1, 2: 1},
    {1: 7, 0: 1},
    {2: 1, 1: 1, 0: 1},
    {0: 1, 1: 5},
)


class ModelRunnerChecks:
    """Subclass it and name a registered `runner`, or give the `component` itself.

    The runner runs a small Llama over a cache, step by step; what it gives is compared with the model's own outcome.
    `sections` are the plugin's settings, by schema.
    """

    runner: ClassVar[str] = ""
    component: ClassVar[ModelRunner | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    tolerance: ClassVar[float] = 1e-5

    def made(self, model: Model, cache: TinyCache) -> Runner:
        """The runner of a model over a cache."""
        build = load(resolve(ModelRunner, self.runner, self.component).build)
        runner: Runner = build(
            RunnerContext(
                model=model,
                attention=cache.attention,
                vocab_size=CONFIG["vocab_size"],
                device=torch.device("cpu"),
                sections=self.sections,
            )
        )
        return runner

    def caches(self) -> tuple[TinyCache, TinyCache]:
        """Two of a kind: for the runner and for what it is compared with."""
        layers = from_transformers(CONFIG).cache_layers
        one, other = (TinyCache(layers, scatter=1) for _ in range(2))
        return one, other

    def test_steps_give_what_the_model_gives(self) -> None:
        model = small_llama()
        mine, plain = self.caches()
        runner = self.made(model, mine)
        for number, counts in enumerate(STEPS):
            parts = tokens_of(counts, seed=number)
            with torch.inference_mode():
                step = make_step(plain, parts)
                hidden = model.forward(step)
                logits = model.logits(hidden)
            output = runner.run(make_step(mine, parts).inputs)
            assert output.logits is not None, "the step wants logits"
            self.close(output.hidden, hidden)
            self.close(output.logits, logits)
            with torch.inference_mode():
                output.logits.fill_(float("nan"))  # samplers may write into them

    def test_logits_are_those_of_the_rows_that_are_wanted(self) -> None:
        model = small_llama()
        mine, plain = self.caches()
        runner = self.made(model, mine)
        for counts, wanted in (({0: 5, 1: 3}, [4]), ({0: 1, 1: 2}, [2, 0]), ({1: 4}, [])):
            parts = tokens_of(counts, seed=len(wanted))
            inputs = make_step(mine, parts).inputs
            inputs.logit_rows = torch.tensor(wanted, dtype=torch.int64)
            with torch.inference_mode():
                hidden = model.forward(make_step(plain, parts))
                logits = model.logits(hidden)[wanted]
            output = runner.run(inputs)
            self.close(output.hidden, hidden)
            if wanted:
                assert output.logits is not None
                self.close(output.logits, logits)
            else:
                assert output.logits is None, "no logits are wanted"

    def test_logits_of_further_rows(self) -> None:
        model = small_llama()
        mine, _ = self.caches()
        runner = self.made(model, mine)
        output = runner.run(make_step(mine, tokens_of({0: 6}, seed=0)).inputs)
        assert output.logits is not None
        self.close(runner.logits(output.hidden), output.logits)
        self.close(runner.logits(output.hidden[3:4]), output.logits[3:4])

    def close(self, result: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(result, expected, atol=self.tolerance * float(expected.abs().max()), rtol=0)


@cache
def small_llama() -> Model:
    """The model of the checks."""
    host = installed()
    model = randomised(host.build(host.architectures.get("LlamaForCausalLM"), from_transformers(CONFIG)))
    model.prepare()  # type: ignore[operator]
    return cast("Model", model)


def tokens_of(counts: dict[int, int], seed: int) -> list[Part]:
    """Random tokens for the rows of a step."""
    random = np.random.default_rng(seed)
    return [(row, random.integers(CONFIG["vocab_size"], size=count).tolist()) for row, count in counts.items()]


@dataclass(slots=True)
class ReplayRunner:
    """A Runner around another one, which is asked only for steps that were not seen before.

    Steps are distinguished by tokens, positions and lengths alone: what earlier steps stored must follow from these.
    """

    inner: Runner
    recorded: dict[Key, ModelOutput] = field(default_factory=dict)
    replayed: int = 0

    def run(self, inputs: StepInputs) -> ModelOutput:
        key = _key(inputs)
        found = self.recorded.get(key)
        if found is None:
            found = self.recorded[key] = _copied(self.inner.run(inputs))
        else:
            self.replayed += 1
        return _copied(found)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.inner.logits(hidden)


def _key(inputs: StepInputs) -> Key:
    device = (inputs.input_ids, inputs.positions, inputs.logit_rows)
    host = (inputs.query_start, inputs.seq_lens, inputs.prompt_lens)
    return (*(tensor.cpu().numpy().tobytes() for tensor in device), *(array.tobytes() for array in host))


def _copied(output: ModelOutput) -> ModelOutput:
    """Samplers may write into logits."""
    return ModelOutput(
        logits=None if output.logits is None else output.logits.clone(),
        hidden=output.hidden.clone(),
        aux_hidden=tuple(each.clone() for each in output.aux_hidden),
    )
