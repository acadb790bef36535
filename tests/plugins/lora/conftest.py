"""Adapters made by PEFT, and what PEFT itself computes with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from maxserve.core.engine.plan import StepPlan
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import GREEDY, Answer, Served
from maxserve.testing.tiny_configs import tiny_config

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT asks transformers by names that are going."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Base:
    """A small model of transformers in a folder, for which adapters can be made."""

    folder: Path
    cls: type[Any]
    adapters: dict[str, Path] = field(default_factory=dict)

    def adapter(self, name: str, seed: int = 0, **config: Any) -> Path:
        """The folder of an adapter with random factors that change the answers."""
        with quiet():
            wrapped = peft.get_peft_model(self.model(), peft.LoraConfig(**{"r": 4, "target_modules": ALL, **config}))
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key:
                size = 0.2 if "_B" in key else 1 / parameter.shape[-1] ** 0.5
                parameter.data.copy_(
                    torch.randn(parameter.shape, generator=generator) * size
                )  # some share their memory
        folder = self.folder.parent / f"{self.folder.name}-{name}"
        with quiet():
            wrapped.save_pretrained(str(folder))
        self.adapters[name] = folder
        return folder

    def model(self) -> Any:
        return self.cls.from_pretrained(self.folder, dtype=torch.float32, attn_implementation="eager").eval()

    def logprobs(self, name: str, tokens: Sequence[int]) -> torch.Tensor:
        """Those of each token but the first, by PEFT with the adapter of that name, "" for none."""
        model = self.model()
        if name:
            with quiet():
                model = peft.PeftModel.from_pretrained(model, self.adapters[name])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(tokens)])).logits[0].float()
        return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(list(tokens[1:]))[:, None])[:, 0]


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Base]:
    def make(architecture: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Base:
        folder = tmp_path_factory.mktemp(architecture) / "base"
        model: Any = randomised(
            ArchitectureChecks.reference(tiny_config(architecture, architectures=[architecture], **changes))
        )  # type: ignore[arg-type]
        model.to(dtype).save_pretrained(folder)
        return Base(folder, type(model))

    return make


def run(
    engine: Any, requests: Mapping[str, tuple[str, Sequence[int]]], tokens: int = 8, preempted_after: int = 0
) -> dict[str, Answer]:
    """Answers by id to requests (adapter, prompt), all in one batch.

    After that many steps, if any, the sequences that run are preempted: they lose their pages.
    """
    answers = {id: Answer() for id in requests}
    for id, (adapter, prompt) in requests.items():
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=0, fields=GREEDY)
        engine.add(Request(id=id, prompt=tuple(prompt), params=params, adapter=adapter))
    steps = 0
    while engine.busy:
        if preempted_after and steps == preempted_after:
            preempt(engine)
        steps += 1
        for output in engine.next_outputs():
            answer = answers[output.id]
            answer.tokens += output.tokens
            answer.logprobs += [entry.logprob for entry in output.logprobs]
            answer.cached, answer.error = output.cached, output.error or answer.error
    return answers


def preempt(engine: Any) -> None:
    """Takes away whatever those who run have in the cache."""
    plan = StepPlan(engine._queues, engine._cache, engine._limits, engine._free_rows, cost=engine._parts.cost)
    for sequence in list(engine._queues.running.values()):
        plan.preempt(sequence.view)
    assert plan.preempted
    engine._settle(plan)
    engine.reset_prefix_cache()


@pytest.fixture(scope="session")
def llama(make_base: Callable[..., Base]) -> Base:
    base = make_base("LlamaForCausalLM")
    base.adapter("all", seed=1, r=8, lora_alpha=16)
    base.adapter("queries", seed=2, r=4, target_modules=["q_proj", "v_proj"])
    base.adapter("scaled", seed=3, r=16, use_rslora=True, target_modules=["k_proj", "down_proj", "gate_proj"])
    base.adapter(
        "patterns",
        seed=4,
        r=4,
        rank_pattern={"q_proj": 8, r"layers\.0\.mlp\.down_proj": 2},
        alpha_pattern={"up_proj": 32},
    )
    return base


@pytest.fixture
def served(plugin_host: Any) -> Callable[..., Served]:
    """The engine of a base with its adapters."""

    def serve(base: Base, names: Sequence[str] | None = None, **options: Any) -> Served:
        paths = [f"{name}={base.adapters[name]}" for name in (base.adapters if names is None else names)]
        lora = {"enable_lora": True, "lora_paths": paths, "max_num_loras": 4} if names != () else {}
        return Served(base.folder, plugin_host(), **{**lora, **options})

    return serve
