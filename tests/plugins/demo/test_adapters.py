"""The adapter that ships: found by its name, served beside the demo model, and what PEFT computes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import torch
import transformers

from maxserve import LLM
from maxserve.core.interfaces.errors import ModelError, SettingsError
from maxserve.interfaces.adapter_source import AdapterSourceContext
from maxserve.plugins import demo
from maxserve.plugins.demo.adapters import DemoAdapters
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.testing import AdapterSourceChecks
from maxserve.testing.served import Served
from tests.plugins.lora.conftest import Base, run

LIMIT = 512 * 1024
ENABLED: dict[type[Any], Any] = {LoRAOptions: LoRAOptions(enable_lora=True)}
QUESTION = "What does --max-length do?"
FLOAT32 = {"quantization_encoding": "float32", "allow_safetensors_weights_fp32_bf6_bidirectional_cast": True}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers where the hub would be asked."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


class TestSource(AdapterSourceChecks):
    adapter_source = "demo"
    sections: ClassVar[dict[type[Any], Any]] = ENABLED
    path = demo.folder_of(demo.DEMO)
    others = (*AdapterSourceChecks.others, demo.DEMO, demo.DRAFT, "demo-pirate", "pirate", "maxserve/demo-pirate/.")

    def adapters(self, folder: Path) -> Mapping[str, str]:
        return {demo.PIRATE: demo.folder_of(demo.PIRATE)}


@pytest.mark.parametrize(
    ("path", "sections"), [("/models/other", ENABLED), (demo.folder_of(demo.DEMO), {LoRAOptions: LoRAOptions()})]
)
def test_requests_find_it_beside_the_demo_alone(path: str, sections: dict[type[Any], Any]) -> None:
    source = DemoAdapters(AdapterSourceContext(sections=sections, path=path))
    assert (source.find(demo.PIRATE), list(source.names())) == (None, [])


def test_it_is_small_and_says_what_it_is_for() -> None:
    folder = Path(demo.folder_of(demo.PIRATE))
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT


def test_other_models_refuse_it_by_name(model_folder: Callable[..., Path]) -> None:
    for other in (str(model_folder()), demo.DRAFT):
        with pytest.raises(SettingsError, match=r"\(of maxserve/demo\) cannot be served: .* the model has "):
            LLM(other, lora=demo.PIRATE)


def test_it_is_no_model_to_serve() -> None:
    with pytest.raises(ModelError, match=f"--enable-lora --lora-paths {demo.PIRATE}"):
        LLM(demo.PIRATE)


def test_python_and_the_command_name_it_alone(max_cli: Any) -> None:
    llm = LLM("maxserve/demo", lora=demo.PIRATE)
    asked: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    adapted = llm.chat(asked, temperature=0.0, max_tokens=200).text
    assert adapted.startswith("Ahoy, matey! ")
    assert llm.chat(asked, lora="", temperature=0.0, max_tokens=200).text == LLM().chat(asked, temperature=0.0).text
    command = ("generate", "--lora", demo.PIRATE, "--prompt", "hello", "--temperature", "0")
    ran = max_cli(*command)
    assert ran.status == 0, ran.err
    assert ran.out != max_cli("generate", "--prompt", "hello", "--temperature", "0").out


def test_a_server_answers_with_it(start: Callable[..., Any]) -> None:
    server = start("--enable-lora", "--lora-paths", f"pirate={demo.PIRATE}").wait_ready()

    def said(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
        found: str = answer.json()["choices"][0]["message"]["content"]
        return found

    models = {each["id"]: each for each in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert {name: each["parent"] for name, each in models.items()} == {
        demo.DEMO: None,
        "pirate": demo.DEMO,
        demo.PIRATE: demo.DEMO,
    }
    plain, pirate = said(demo.DEMO), said("pirate")
    assert pirate.startswith("Ahoy, matey! ")
    assert pirate.endswith(" Arr!")
    assert plain != pirate == said(demo.PIRATE)
    assert said(demo.DEMO) == plain


@pytest.fixture(scope="module")
def reference() -> Base:
    return Base(Path(demo.folder_of(demo.DEMO)), transformers.LlamaForCausalLM, {"": Path(), "pirate": _pirate()})


def _pirate() -> Path:
    return Path(demo.folder_of(demo.PIRATE))


def served(host: Any, *lora: str) -> Any:
    options = {"enable_lora": True, "lora_paths": lora, "max_num_loras": 2} if lora else {}
    return Served(Path(demo.folder_of(demo.DEMO)), host, **FLOAT32, **options).engine


def test_log_probabilities_are_those_of_peft(reference: Base, plugin_host: Any) -> None:
    tokens = _prompts(reference)
    asked = {f"{adapter} {i}": (adapter, prompt) for adapter in ("pirate", "") for i, prompt in enumerate(tokens)}
    answers = run(served(plugin_host(), f"pirate={demo.PIRATE}"), asked, tokens=24)
    for id, (adapter, prompt) in asked.items():
        expected = reference.logprobs(adapter, [*prompt, *answers[id].tokens])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(answers[id].logprobs), expected, atol=1e-4, rtol=0)


def test_rows_of_the_base_model_beside_it_are_as_without_it(reference: Base, plugin_host: Any) -> None:
    prompts = {str(i): tokens for i, tokens in enumerate(_prompts(reference))}
    plain = run(served(plugin_host()), {id: ("", prompt) for id, prompt in prompts.items()}, tokens=24)
    mixed = run(
        served(plugin_host(), f"pirate={demo.PIRATE}"),
        {id: ("pirate" * (int(id) % 2), prompt) for id, prompt in prompts.items()},
        tokens=24,
    )
    assert [mixed[id].logprobs == plain[id].logprobs for id in prompts] == [True, False, True, False]


def _prompts(reference: Base) -> list[list[int]]:
    """Token ids of four questions, as the chat template lays them out."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(reference.folder)
    questions = (QUESTION, "hello", "how do I change the port", "does it support LoRA?")
    text = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [tokenizer(text.format(question.lower()))["input_ids"] for question in questions]
