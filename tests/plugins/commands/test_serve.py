"""`max serve` up to the server itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CONFIG = """
from dataclasses import dataclass
from maxserve import ConfigSection, hookimpl

@dataclass(frozen=True, slots=True)
class Config:
    aging: float = 50.0

@hookimpl
def maxserve_config():
    yield ConfigSection(name="shortest-first", schema=Config)
"""


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Takes the place of the server; holds what it was started with, and ends with status 3."""
    monkeypatch.chdir(tmp_path)
    calls: list[Any] = []

    def serve(settings: Any, host: Any, *, notes: Any, ahead: Any) -> int:
        calls.append((settings, host))
        return 3

    launch = ModuleType("maxserve.core.runtime.launch")
    launch.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "maxserve.core.runtime.launch", launch)
    import maxserve.core.runtime

    monkeypatch.setattr(maxserve.core.runtime, "launch", launch, raising=False)
    return calls


def test_settings_and_host_reach_the_server_and_its_status_comes_back(max_cli: Any, launched: list[Any]) -> None:
    ran = max_cli("serve", "--port", "8123", "--max-length", "64", environ={"MAX_SERVE_HOST": "127.0.0.2"})
    assert (ran.status, ran.err) == (3, "")
    ((settings, host),) = launched
    assert (settings.server.port, settings.model.max_length, settings.server.host) == (8123, 64, "127.0.0.2")
    assert settings.chosen == {"server.port", "model.max_length", "server.host"}
    assert "paged" in host.cache_strategies


def test_options_of_a_plugin(max_cli: Any, launched: list[Any], plugin_folder: Any) -> None:
    plugin_folder.module("acme_policy", CONFIG)
    assert "--shortest-first.aging" in max_cli("serve", "--plugin", "acme_policy", "--help", "shortest-first").out
    max_cli("serve", "--plugin", "acme_policy", "--shortest-first.aging", "80")
    ((settings, host),) = launched
    assert settings.plugins.plugin == ("acme_policy",)
    (aging,) = (value.aging for value in host.section_values(settings).values() if hasattr(value, "aging"))
    assert aging == 80.0


def test_options_that_are_not_supported_yet(max_cli: Any, launched: list[Any]) -> None:
    ran = max_cli("serve", "--use-vendor-blas", "on")
    assert ran.status == 2
    assert "--use-vendor-blas is not supported yet" in ran.err
    assert launched == []


def test_options_of_another_scheduler(max_cli: Any, launched: list[Any]) -> None:
    ran = max_cli("serve", "--ce-delay-ms", "20", "--min-batch-size-tg", "2")
    assert ran.status == 2
    assert "--min-batch-size-tg means nothing with --scheduler continuous" in ran.err
    assert "--ce-delay-ms means nothing with --scheduler continuous, which does not use it; choose tts" in ran.err
    assert max_cli("serve", "--scheduler", "tts", "--enable-in-flight-batching").status == 2
    assert launched == []
    assert max_cli("serve", "--scheduler", "tts", "--ce-delay-ms", "20", "--min-batch-size-tg", "2").status == 3


def test_weights_of_clients(max_cli: Any, launched: list[Any]) -> None:
    weights = '{"ann": 2, "key-0123456789abcdef": 0.5}'
    assert max_cli("serve", "--scheduler", "fair", "--fair.weights", weights, "--fair.default-weight", "3").status == 3
    ((settings, host),) = launched
    (config,) = (value for value in host.section_values(settings).values() if hasattr(value, "weights"))
    assert (config.weights, config.default_weight) == ({"ann": 2.0, "key-0123456789abcdef": 0.5}, 3.0)
    ran = max_cli("serve", "--fair.weights", '{"ann": -1}')
    assert ran.status == 2
    assert "a weight must be above 0 and finite, got -1" in ran.err


def test_wrong_value(max_cli: Any, launched: list[Any]) -> None:
    assert max_cli("serve", "--port", "many").status == 2
    assert max_cli("serve", "--port", "99999999").status == 2
    assert launched == []


def test_replacing_a_built_in_is_logged_once(max_cli: Any, launched: list[Any], tmp_path: Path) -> None:
    (tmp_path / "my_llama.py").write_text(
        "from maxserve import Architecture\nARCHITECTURES = [Architecture(name='LlamaForCausalLM', build='x:y')]\n"
    )
    ran = max_cli("serve", "--custom-architectures", f"{tmp_path}:my_llama")
    assert ran.status == 3
    assert ran.err.count("replaces that of plugin 'builtin.architectures'") == 1
    assert launched[0][1].architectures.get("LlamaForCausalLM").plugin == "my_llama"
    sys.modules.pop("my_llama")


def test_a_tolerant_operator_is_warned_and_served(max_cli: Any, launched: list[Any], plugin_folder: Any) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    ran = max_cli("serve", "--plugin", "acme_bad", environ={"MAX_SERVE_PLUGIN_ERRORS": "warn"})
    assert ran.status == 3
    assert "WARNING" in ran.err
    assert "ZeroDivisionError" in ran.err


def test_help_leaves_out_settings_that_cannot_be_imported(max_cli: Any, plugin_folder: Any) -> None:
    plugin_folder.module("acme_policy", CONFIG.replace("schema=Config", 'schema="acme_missing:Config"'))
    ran = max_cli("serve", "--plugin", "acme_policy", "--help")
    assert ran.status == 0
    assert "--port" in ran.out
    ran = max_cli("serve", "--plugin", "acme_policy")
    assert ran.status == 2
    assert "config 'shortest-first': cannot load 'acme_missing:Config'" in ran.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--scheduler", "contnuous"), "no scheduler is called 'contnuous' (did you mean 'continuous'?)"),
        (("--attention-backend", "trch"), "no attention backend is called 'trch' (did you mean 'torch'?)"),
        (("--linear-method", "nativ"), "no linear method is called 'nativ' (did you mean 'native'?)"),
        (("--layer-compiler", "nativ"), "no layer compiler is called 'nativ' (did you mean 'native'?)"),
        (("--model-runner", "eagre"), "no model runner is called 'eagre' (did you mean 'eager'?)"),
        (("--speculative-method", "EAGEL"), "no speculator is called 'EAGEL' (did you mean 'eagle'?)"),
        (("--num-speculative-tokens", "3"), "--num-speculative-tokens: nothing drafts tokens"),
        (("--no-adaptive-speculation",), "--adaptive-speculation: nothing drafts tokens"),
        (("--ngram.prompt-lookup-max", "3"), "--ngram.prompt-lookup-max means nothing without a --speculative-method"),
        (
            ("--speculative-method", "NGRAM", "--synthetic.acceptance", "0.5"),
            "--synthetic.acceptance means nothing with --speculative-method ngram, which does not use it",
        ),
        (
            ("--max-mixed-step-ms", "9", "--no-enable-in-flight-batching"),
            "--max-mixed-step-ms: no step is mixed with --no-enable-in-flight-batching",
        ),
        (("--cache-strategy", "pagde"), "no cache strategy is called 'pagde' (did you mean 'paged'?)"),
        (("--no-plugin", "builtin.schedulers"), "no scheduler is called 'continuous'; there is none"),
    ],
)
def test_names_are_looked_up_before_a_model_is_read(
    max_cli: Any, launched: list[Any], argv: tuple[str, ...], message: str
) -> None:
    ran = max_cli("serve", *argv)
    assert ran.status == 2
    assert message in ran.err
    assert launched == []


def test_the_model_may_stand_without_its_option(max_cli: Any, launched: list[Any]) -> None:
    assert max_cli("serve", "acme/tiny", "--port", "0").status == 3
    assert launched[0][0].model.model_path == "acme/tiny"
    assert max_cli("serve", "--port", "0", "acme/tiny").status == 3
    assert launched[1][0].model.model_path == "acme/tiny"


@pytest.mark.parametrize("flag", ["--model", "--model-path"])
def test_two_models_are_one_too_many(max_cli: Any, launched: list[Any], flag: str) -> None:
    ran = max_cli("serve", "acme/tiny", flag, "acme/other")
    assert ran.status == 2
    assert f"acme/tiny and {flag} acme/other both name a model; give one of them" in ran.err


def test_a_command_is_no_model(max_cli: Any, launched: list[Any]) -> None:
    assert "serve is a command of max, not a model: type it once" in max_cli("serve", "serve").err
    assert launched == []
