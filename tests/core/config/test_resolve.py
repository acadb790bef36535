from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from maxserve.core.config import PluginSection, Settings, resolve, resolve_plugins
from maxserve.core.interfaces.errors import SettingsError


@dataclass(frozen=True)
class Needy:
    token: str
    tries: int = 1


def test_nothing_chosen_gives_the_defaults() -> None:
    assert resolve({"max_length": None, "plugin": (), "weight_path": []}, environ={}) == Settings()


def test_all_wrong_values_are_in_one_line() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({"max_length": "long", "devices": "tpu"}, environ={"MAX_SERVE_PORT": "-"})
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("--max-length", "--devices", "MAX_SERVE_PORT"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", 70000, "--port: expected from 0 to 65535, not 70000"),
        ("port", -1, "--port: expected from 0 to 65535, not -1"),
        ("max_batch_size", 0, "--max-batch-size: expected at least 1, not 0"),
        ("max_batch_input_tokens", 0, "--max-batch-input-tokens: expected at least 1, not 0"),
        ("max_length", -5, "--max-length: expected at least 1, not -5"),
        ("kvcache_ce_watermark", 1.5, "--kvcache-ce-watermark: expected from 0 to 1, not 1.5"),
        ("kvcache_ce_watermark", "nan", "--kvcache-ce-watermark: expected from 0 to 1, not nan"),
        ("device_memory_utilization", 0, "--device-memory-utilization: expected above 0 and at most 1, not 0.0"),
        ("device_memory_utilization", 5, "--device-memory-utilization: expected above 0 and at most 1, not 5.0"),
        ("kv_cache_page_size", 24, "--kv-cache-page-size: expected at least 16 and a multiple of 16, not 24"),
        ("max_num_steps", -2, "--max-num-steps: expected at least -1, not -2"),
        ("num_speculative_tokens", 16, "--num-speculative-tokens: expected from 1 to 15, not 16"),
        ("model", "", "--model: expected some text, not ''"),
        ("task", "poetry", "--task: expected one of text_generation, embeddings_generation, audio_generation, "),
    ],
)
def test_a_value_out_of_range_names_option_cause_and_fix(name: str, value: object, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({name: value}, environ={})
    assert str(caught.value).startswith(expected)


def test_a_plugin_setting_is_judged_by_type_and_schema(section: PluginSection) -> None:
    with pytest.raises(SettingsError, match=r"^--shortest-first.rounds: expected a whole number, not 'x'$"):
        resolve({"shortest_first__rounds": "x"}, environ={}, sections=[section])
    with pytest.raises(SettingsError, match=r"rounds must not be 13; take 12 or 14"):
        resolve({"shortest_first__rounds": 13}, environ={}, sections=[section])


def test_a_plugin_setting_without_default_is_needed() -> None:
    section = PluginSection(name="needy", schema=Needy, plugin="acme")
    with pytest.raises(SettingsError, match=r"plugin 'acme' needs --needy.token; give it, or MAX_SERVE_NEEDY_TOKEN"):
        resolve({}, environ={}, sections=[section])
    settings = resolve({"needy__token": "t"}, environ={}, sections=[section])
    assert settings.plugins.sections == {"needy": {"token": "t", "tries": 1}}


def test_plugins_are_chosen_before_their_options_are_known(yaml_file: Callable[..., str]) -> None:
    file = yaml_file("plugins: {plugin: [a]}\nshortest-first: {aging: 80}\nmodel: {max_length: wrong}\n")
    environ = {"MAX_SERVE_NO_PLUGIN": "b", "MAX_SERVE_PORT": "wrong"}
    found = resolve_plugins({"config_file": file, "shortest_first__aging": 1, "prefer": ("x:y=z",)}, environ=environ)
    assert (found.plugin, found.no_plugin, found.prefer) == (("a",), ("b",), ("x:y=z",))


def test_settings_import_no_torch() -> None:
    code = (
        "import sys, maxserve.plugins.commands.options, maxserve.plugins.commands.show;"
        "print([n for n in ('torch', 'transformers', 'numpy', 'fastapi') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
