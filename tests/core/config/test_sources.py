from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest

from maxserve.core.config import PluginSection, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve

ORIGINS = ("command line", "file", "environment")
CASES = {
    "max_length": ("model.max_length", (11, 22, 33), None),
    "model_path": ("model.model_path", ("a", "b", "c"), "maxserve/demo"),
    "kv_cache_format": ("kv_cache.kv_cache_format", ("float32", "bfloat16", "float8_e4m3fn"), None),
    "enable_prefix_caching": ("kv_cache.enable_prefix_caching", (False, True, False), True),
    "enable_in_flight_batching": ("scheduling.enable_in_flight_batching", (False, True, True), False),
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
