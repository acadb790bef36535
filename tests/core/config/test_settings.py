from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.settings import SECTIONS, ModelSettings, _adapter
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.options import PluginOptions


def test_defaults_survive_the_way_to_a_worker() -> None:
    assert Settings.model_validate_json(Settings().model_dump_json()) == Settings()


def test_choices_survive_the_way_to_a_worker(section: PluginSection) -> None:
    typed = {"weight_path": ("org/repo/a.safetensors",), "devices": "gpu:1", "shortest_first__names": ("x", "y")}
    settings = resolve(typed, environ={"MAX_SERVE_PORT": "9"}, sections=[section])
    copy = Settings.model_validate_json(settings.model_dump_json())
    assert copy == settings
    assert copy.chosen == {"model.weight_path", "model.devices", "shortest-first.names", "server.port"}


def test_settings_and_sections_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.model = ModelSettings()  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.model.max_length = 5  # type: ignore[misc]


def test_sections_know_no_other_names() -> None:
    with pytest.raises(ValidationError):
        ModelSettings.model_validate({"max_lenght": 5})


def test_every_section_is_part_of_the_settings_and_has_help() -> None:
    assert {name: field.annotation for name, field in Settings.model_fields.items() if name != "origins"} == SECTIONS
    for section in SECTIONS.values():
        assert section.title
        for name, field in section.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name


def test_the_defaults_that_are_ours() -> None:
    settings = Settings()
    assert settings.model.model_path == "maxserve/demo"
    assert settings.server.host == "127.0.0.1"
    assert settings.kv_cache.kv_cache_page_size is None
    assert settings.scheduling.max_batch_size is None
    assert all(settings.sampling.model_dump().values())


def test_a_plugin_section_makes_its_schema(section: PluginSection, schema: Any) -> None:
    assert section.load({}) == schema()
    assert section.load({"names": ["a"], "aging": 2}) == schema(names=("a",), aging=2.0)


@pytest.mark.parametrize("values", [{"rounds": 13}, {"rounds": "many"}, {"no_such": 1}])
def test_a_plugin_section_refuses_what_its_schema_refuses(section: PluginSection, values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"shortest-first.*acme") as caught:
        section.load(values)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Odd:
    """Settings that refuse to be even, as some schemas check themselves."""

    number: int = 1
    names: tuple[str, ...] = ()
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.number % 2 == 0:
            raise ValueError("must be odd")


@dataclass(frozen=True)
class Even(Odd):
    number: int = 2


@pytest.mark.parametrize("values", [{}, {"number": 1, "names": [], "weights": {}}])
def test_defaults_need_no_validator(values: dict[str, Any]) -> None:
    before = _adapter.cache_info().misses
    assert PluginSection(name="odd", schema=Odd).load(values) == Odd()
    assert _adapter.cache_info().misses == before


@pytest.mark.parametrize("values", [{"number": True}, {"number": 3, "names": ["a"]}])
def test_other_values_are_validated(values: dict[str, Any]) -> None:
    made = PluginSection(name="odd", schema=Odd).load(values)
    assert (type(made.number), type(made.names)) == (int, tuple)
    assert made.number == values["number"]


def test_defaults_that_their_own_check_refuses_are_refused() -> None:
    with pytest.raises(SettingsError, match="must be odd"):
        PluginSection(name="even", schema=Even, plugin="acme").load({})


def test_defaults_of_plugins_are_what_their_validators_make_of_them() -> None:
    sections = PluginHost.discover(PluginOptions(), strict=True).plugin_sections()
    given = resolve({}, environ={}, sections=sections).plugins.sections
    for section in sections:
        values = given.get(section.name, {})
        assert section.load(values) == TypeAdapter(section.schema).validate_python(dict(values)), section.name
