"""`max generate`, with a model that says what it is told to, and once with a real one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class FakeLLM:
    """Answers "a b c d" token by token, and remembers what it was asked."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, *, settings: Any, host: Any) -> None:
        self.settings = settings
        self.info = SimpleNamespace(name="fake", task="text_generation")
        self.template: object | None = object()

    def render(self, messages: list[dict[str, Any]]) -> Any:
        assert [message["role"] for message in messages] == ["user"]
        return SimpleNamespace(tokens=tuple(f"<{messages[0]['content']}>".encode()))

    def params(self, **given: Any) -> dict[str, Any]:
        return given

    def stream(self, *, prompt: Any, params: dict[str, Any], stop: Any = (), lora: str = "") -> Iterator[Any]:
        self.asked.append({"prompt": bytes(prompt.tokens).decode(), "stop": stop, **params})
        for number, text in enumerate("abcd"[: params["max_tokens"]], start=1):
            yield SimpleNamespace(text=text, tokens=(number,), finish=None)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the model was asked."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("maxserve.llm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "maxserve.llm", module)
    FakeLLM.asked = []
    return FakeLLM.asked


def test_prompt_becomes_a_message_and_the_answer_is_followed_by_the_report(max_cli: Any, asked: Any) -> None:
    ran = max_cli("generate", "--prompt", "hello")
    assert ran.status == 0
    assert ran.out.startswith("abcd\nPrompt size: 7\nOutput size: 4\nStartup time: ")
    assert asked == [
        {
            "prompt": "<hello>",
            "stop": (),
            "max_tokens": 100,
            "stop_token_ids": (),
            "ignore_eos": False,
            "seed": None,
        }
    ]


def test_options_of_the_request(max_cli: Any, asked: Any) -> None:
    words = (
        "--top-k 5 --top-p 0.9 --min-p 0.1 --temperature 0.5 --max-new-tokens 2 --stop x --stop y --stop-token-ids 3,4"
    )
    ran = max_cli("generate", "--prompt", "p", *words.split(), "--ignore-eos", "--seed", "7")
    assert ran.out.startswith("ab\n")
    assert asked == [
        {
            "prompt": "<p>",
            "stop": ("x", "y"),
            "max_tokens": 2,
            "stop_token_ids": (3, 4),
            "ignore_eos": True,
            "seed": 7,
            "top_k": 5,
            "top_p": 0.9,
            "min_p": 0.1,
            "temperature": 0.5,
        }
    ]


def test_token_ids_instead_of_text(max_cli: Any, asked: Any) -> None:
    assert max_cli("generate", "--no-detokenize").out.startswith("1 2 3 4 \n")


def test_warm_up_is_unseen_and_uncounted(max_cli: Any, asked: Any) -> None:
    ran = max_cli("generate", "--num-warmups", "3")
    assert [each["max_tokens"] for each in asked] == [3, 100]
    assert ran.out.startswith("abcd\n")
    assert "Output size: 4\n" in ran.out


@pytest.mark.parametrize(
    "option", ["--frequency-penalty", "--presence-penalty", "--repetition-penalty", "--min-new-tokens"]
)
def test_options_that_no_sampler_stands_behind(max_cli: Any, asked: Any, option: str) -> None:
    ran = max_cli("generate", "--no-plugin", "builtin.samplers", option, "1")
    assert ran.status == 2
    assert f"{option} is not supported yet" in ran.err
    assert asked == []


def test_a_model_of_text_sees_nothing(max_cli: Any) -> None:
    ran = max_cli("generate", "--image_url", "data:image/png;base64,AAAA", "--max-new-tokens", "1")
    assert ran.status == 2
    assert "the model takes text only, no images" in ran.err


def test_a_plugin_makes_an_option_work(max_cli: Any, asked: Any, plugin_folder: Any) -> None:
    plugin_folder.module(
        "acme_penalty",
        """
        from dataclasses import dataclass
        from maxserve import Sampler, hookimpl

        @dataclass(frozen=True, slots=True)
        class Penalty:
            frequency_penalty: float = 0.0

        @hookimpl
        def maxserve_samplers():
            yield Sampler(name="acme-penalty", params=Penalty, build="acme_penalty:build")
        """,
    )
    words = ("--no-plugin", "builtin.samplers", "--plugin", "acme_penalty", "--frequency-penalty", "0.5")
    assert max_cli("generate", *words).status == 0
    assert asked[0]["frequency_penalty"] == 0.5


def test_server_options_are_unknown(max_cli: Any, asked: Any) -> None:
    assert max_cli("generate", "--port", "8000").status == 2
    assert max_cli("generate", "--stop-token-ids", "one").status == 2


def test_plugins_hear_of_start_and_end(max_cli: Any, asked: Any, plugin_folder: Any) -> None:
    plugin_folder.module(
        "acme_start",
        """
        from maxserve import hookimpl

        @hookimpl
        def maxserve_process_start(process):
            print(process.kind, "starts")
            process.on_exit(lambda: print(process.kind, "ends"))
        """,
    )
    out = max_cli("generate", "--plugin", "acme_start").out
    assert out.startswith("local starts\nabcd\n")
    assert out.endswith("local ends\n")


def test_with_a_real_model(max_cli: Any, model_folder: Callable[..., Path]) -> None:
    words = ("--model", str(model_folder()), "--temperature", "0", "--max-new-tokens", "5", "--ignore-eos")
    first = max_cli("generate", "--prompt", "the quick brown", *words)
    assert first.status == 0, first.err
    assert "Output size: 5\n" in first.out
    assert "n/a" not in first.out
    assert max_cli("generate", "--prompt", "the quick brown", *words).out.split("\n")[0] == first.out.split("\n")[0]


def test_a_model_without_a_template_continues_the_prompt(
    max_cli: Any, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder(), tmp_path / "base")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["chat_template"]
    path.write_text(json.dumps(config))
    ran = max_cli("generate", "--model", str(folder), "--max-new-tokens", "3", "--ignore-eos", "the world")
    assert ran.status == 0
    assert "no chat template: it continues the prompt as it is" in ran.err
    assert "Output size: 3" in ran.out


def test_a_prompt_may_stand_without_its_option(max_cli: Any, asked: Any) -> None:
    ran = max_cli("generate", "Who are you?")
    assert ran.status == 0
    assert asked[0]["prompt"] == "<Who are you?>"
    assert "Prompt:" not in ran.err
    ran = max_cli("generate", "one", "--prompt", "other")
    assert ran.status == 2
    assert "a prompt and --prompt are given; leave out one of them" in ran.err


def test_the_prompt_that_stands_in_is_shown(max_cli: Any, asked: Any) -> None:
    ran = max_cli("generate")
    assert asked[0]["prompt"] == "<I believe the meaning of life is>"
    assert "Prompt: I believe the meaning of life is" in ran.err
    assert "Prompt:" not in ran.out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_in_short(max_cli: Any, flag: str) -> None:
    assert "--max-new-tokens" in max_cli("generate", flag).out
    assert "Commands:" in max_cli(flag).out
