"""Adapters of towers and projectors: images have features of their own with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch

from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.testing.architecture import randomised
from maxserve.testing.served import GREEDY, Answer
from maxserve.testing.vision import Prompt, VisionCases
from tests.architectures import test_vision as families
from tests.plugins.lora.conftest import Base, preempt, quiet

CASES: Mapping[str, tuple[type[VisionCases], list[str], list[str]]] = {
    "llava": (families.TestLlava, ["fc1", "linear_2", "vision_tower.*k_proj"], ["q_proj", "fc2"]),
    "pixtral": (families.TestPixtral, ["vision_tower.*(gate|v)_proj", "linear_1"], ["o_proj"]),
    "qwen 2.5": (families.TestQwen25VL, ["qkv", r"merger\.mlp\.0", r"visual.*up_proj"], ["down_proj", r"attn\.proj"]),
    "qwen 3": (families.TestQwen3VL, ["qkv", "linear_fc1", "linear_fc2"], ["q_proj", r"attn\.proj"]),
}


class Images:
    """A vision-language model in a folder, its adapters, and prompts with images."""

    def __init__(self, folder: Path, cases: type[VisionCases], host: Any) -> None:
        config = next(iter(cases.hf_configs.values()))()
        model: Any = randomised(cases.reference(config))
        folder.mkdir()
        cases.write(folder, config, model)
        self.base = Base(folder, type(model))
        self.cases, self.host = cases(), host
        self.case: Any = SimpleNamespace(
            files=[folder / "model.safetensors"],
            reference=model,
            host=host,
            entry=host.architectures.get(cases.architecture),
        )

    def adapter(self, name: str, seed: int, modules: list[str], **config: Any) -> None:
        self.base.adapter(name, seed, target_modules=rf".*({'|'.join(modules)})", **config)

    def prompt(self, count: int, seed: int) -> Prompt:
        return self.cases.prompt(self.case, count, seed=seed)

    def check(self, answers: Mapping[str, Answer], requests: Mapping[str, tuple[str, Prompt]]) -> None:
        """Log probabilities of all that was answered are PEFT's."""
        for id, (adapter, prompt) in requests.items():
            assert answers[id].error is None
            model = self.base.model()
            if adapter:
                with quiet():
                    model = peft.PeftModel.from_pretrained(model, self.base.adapters[adapter])
            tokens = torch.tensor([*prompt.tokens, *answers[id].tokens])
            more = torch.zeros(1, len(answers[id].tokens), dtype=torch.int64)
            inputs = {
                key: torch.cat((value, more), dim=1) if key.endswith("type_ids") else value
                for key, value in prompt.inputs.items()
            }
            with torch.inference_mode():
                logits = model(input_ids=tokens[None], **inputs).logits[0].float()
            expected = logits.log_softmax(-1)[:-1].gather(-1, tokens[1:, None])[len(prompt.tokens) - 1 :, 0]
            torch.testing.assert_close(torch.tensor(answers[id].logprobs), expected, atol=1e-4, rtol=0)


def run(engine: Any, requests: Mapping[str, tuple[str, Prompt]], preempted_after: int = 0) -> dict[str, Answer]:
    answers = {id: Answer() for id in requests}
    for id, (adapter, prompt) in requests.items():
        params = SamplingParams(max_tokens=4, ignore_eos=True, logprobs=0, fields=GREEDY)
        request = Request(id=id, prompt=tuple(prompt.tokens), images=prompt.images, params=params, adapter=adapter)
        engine.add(request)
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


@pytest.mark.parametrize("name", CASES)
def test_towers_and_projectors(name: str, tmp_path: Path, plugin_host: Any, served: Callable[..., Any]) -> None:
    cases, tower, others = CASES[name]
    images = Images(tmp_path / "base", cases, plugin_host())
    images.adapter("tower", 1, tower, r=8, lora_alpha=16)
    images.adapter("both", 2, [*tower, *others], r=4)
    images.adapter("text", 3, [r"language_model.*q_proj"], r=16, use_rslora=True)
    one, two = images.prompt(1, seed=5), images.prompt(2, seed=5)
    requests = {
        f"{adapter} {i}": (adapter, p) for adapter in ("", *images.base.adapters) for i, p in enumerate((one, two))
    }
    served_images = served(images.base)
    engine = served_images.engine
    mixed = run(engine, requests)
    images.check(mixed, requests)
    assert len({tuple(answer.logprobs) for answer in mixed.values()}) == len(requests), "adapters change the answers"
    for id in ("tower 1", "both 1"):
        run(engine, {id: requests[id]})
        again = run(engine, {id: requests[id]})
        assert again[id].cached >= 16
        images.check(again, {id: requests[id]})
    images.check(run(engine, requests, preempted_after=3), requests)
    assert engine.stats().preemptions
    plain = run(served(images.base, ()).engine, {" 1": requests[" 1"]})
    assert run(engine, {" 1": requests[" 1"]})[" 1"].tokens == plain[" 1"].tokens
