from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.config import PluginSection, resolve
from maxserve.core.config.catalog import OptionSpec, catalog
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve

ORIGINS = ("command line", "file", "environment")
CASES: dict[str, tuple[str, tuple[Any, ...], Any]] = {
    "max_length": ("model.max_length", (11, 22, 33), None),
    "model_path": ("model.model_path", ("a", "b", "c"), "maxserve/demo"),
    "kv_cache_format": ("kv_cache.kv_cache_format", ("float32", "bfloat16", "float8_e4m3fn"), None),
    "enable_prefix_caching": ("kv_cache.enable_prefix_caching", (False, True, False), True),
    "enable_in_flight_batching": ("scheduling.enable_in_flight_batching", (False, True, False), True),
    "port": ("server.port", (1, 2, 3), 8000),
    "host": ("server.host", ("a", "b", "c"), "127.0.0.1"),
    "plugin": ("plugins.plugin", (("a",), ("b", "c"), ("d",)), ()),
    "num_speculative_tokens": ("speculative.num_speculative_tokens", (1, 2, 3), 5),
    "vision_config_overrides": ("model.vision_config_overrides", ({"a": 1}, {"b": 2}, {"c": 3}), {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)))
def test_typed_wins_over_file_over_environment_over_default(
    name: str, present: tuple[bool, bool, bool], yaml_file: Callable[..., str]
) -> None:
    path, values, default = CASES[name]
    typed, filed, environ = present
    file = yaml_file(json.dumps({name: values[1]} if filed else {}))
    variable = values[2] if isinstance(values[2], str) else json.dumps(values[2])
    settings = resolve(
        {name: values[0] if typed else None, "config_file": file},
        environ={"PATH": "", **({f"MAX_SERVE_{name.upper()}": variable} if environ else {})},
        sections=SHARED,
    )
    winner = next((i for i in range(3) if present[i]), None)
    assert catalog(SHARED).by_path()[path].value(settings) == (default if winner is None else values[winner])
    assert settings.origins.get(path) == (None if winner is None else ORIGINS[winner])
    assert (path in settings.chosen) == any(present)


def test_fields_come_from_different_places(yaml_file: Callable[..., str]) -> None:
    settings = resolve(
        {"max_length": 11, "config_file": yaml_file("max_length: 22\nmax_batch_size: 2\n")},
        environ={"MAX_SERVE_MAX_LENGTH": "33", "MAX_SERVE_MAX_BATCH_SIZE": "3", "MAX_SERVE_PORT": "3"},
    )
    assert (settings.model.max_length, settings.scheduling.max_batch_size, settings.server.port) == (11, 2, 3)


def test_a_weaker_place_is_not_judged(yaml_file: Callable[..., str]) -> None:
    settings = resolve({"port": 5}, environ={"MAX_SERVE_PORT": "no number"})
    assert settings.server.port == 5


def test_a_false_switch_is_a_choice() -> None:
    settings = resolve({"enable_prefix_caching": False}, environ={})
    assert settings.chosen == {"kv_cache.enable_prefix_caching"}


def test_model_is_another_name_for_model_path() -> None:
    assert resolve({"model": "m"}, environ={}).model.model_path == "m"
    assert resolve({}, environ={"MAX_SERVE_MODEL": "m"}).model.model_path == "m"
    with pytest.raises(SettingsError, match=r"--model and --model-path mean the same; give one"):
        resolve({"model": "m", "model_path": "m"}, environ={})


def test_a_name_that_is_no_option_has_a_near_match() -> None:
    with pytest.raises(SettingsError, match=r"no option max_lenght \(did you mean max_length"):
        resolve({"max_lenght": 5}, environ={})


@pytest.mark.parametrize("where", ORIGINS)
def test_three_spellings_of_a_plugin_setting_agree(
    where: str, section: PluginSection, yaml_file: Callable[..., str]
) -> None:
    typed: dict[str, object] = {"config_file": yaml_file("")}
    environ = {"PATH": ""}
    if where == "command line":
        typed |= {"shortest_first__aging": 80.0, "shortest_first__weights": (1, 2), "shortest_first__mode": "hard"}
    elif where == "file":
        yaml_file("shortest-first: {aging: 80, weights: [1, 2], mode: Hard}\n")
    else:
        environ |= {
            "MAX_SERVE_SHORTEST_FIRST_AGING": "80",
            "MAX_SERVE_SHORTEST_FIRST_WEIGHTS": "1,2",
            "MAX_SERVE_SHORTEST_FIRST_MODE": "HARD",
        }
    settings = resolve(typed, environ=environ, sections=[section])
    assert settings.plugins.sections == {
        "shortest-first": {
            "aging": 80.0,
            "rounds": 3,
            "strict": False,
            "mode": "hard",
            "label": None,
            "names": [],
            "weights": [1, 2],
        }
    }
    assert settings.origins["shortest-first.aging"] == where


SWITCHES = [option for option in catalog(SHARED) if option.shape.switch]
OFF = ("false", "no", "off", '"off"', "0", "False")


@pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name)
def test_false_is_never_dropped(option: OptionSpec, yaml_file: Callable[..., str]) -> None:
    """vllm#51401: what a file or the environment says is off is off, whatever the default; the command line wins."""

    def value(environ: dict[str, str] | None = None, **typed: Any) -> Any:
        needed = {"quantization_encoding": "bfloat16"}  # by one of them
        if option.section == "draft_model":
            needed = {"draft_model_path": "d", "speculative_method": "standalone"}
            needed["draft_quantization_encoding"] = "float32"
        return option.value(resolve(needed | typed, environ=environ or {}, sections=SHARED))

    for text in OFF:
        assert value(config_file=yaml_file(f"{option.name}: {text}\n")) is False, text
        assert value({name: text.strip('"') for name in option.env[:1]}) is False, text
    on, off = yaml_file(f"{option.name}: true\n", name="on.yaml"), yaml_file(f"{option.name}: false\n")
    assert value(config_file=on) is True
    assert value({option.env[0]: "true"}, config_file=off) is False
    if option.off_flag:
        assert value({}, config_file=on, **{option.name: False}) is False
        assert value(config_file=yaml_file(f"no-{option.flag[2:]}: true\n")) is False
        assert value(config_file=yaml_file(f"{option.off_flag[2:].replace('-', '_')}: 'off'\n")) is True


def test_an_option_and_its_opposite_in_one_file_are_refused(yaml_file: Callable[..., str]) -> None:
    for text, words in (
        ("enable_echo: true\nno-enable-echo: true\n", "mean the same"),
        ("no-enable-echo: maybe\n", "expected true or false, not 'maybe'"),
        ("no-port: true\n", "unknown key no-port"),
    ):
        with pytest.raises(SettingsError, match=words):
            resolve({"config_file": yaml_file(text)}, environ={}, sections=SHARED)
