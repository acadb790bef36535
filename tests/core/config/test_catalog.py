from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.config.checks import validate_supported
from maxserve.core.config.settings import SECTIONS
from maxserve.core.interfaces.config import Option
from maxserve.core.interfaces.errors import PluginError, SettingsError, UnsupportedError
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve


def test_every_field_is_an_option_once() -> None:
    paths = [option.path for option in catalog()]
    fields = {f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields}
    assert len(set(paths)) == len(paths)
    assert set(paths) == fields - {"plugins.sections", "server.replica"}  # which the server itself sets


def test_every_option_has_its_variable_and_some_have_more() -> None:
    env = {option.name: option.env for option in catalog(SHARED)}
    assert all(variables[0] == f"MAX_SERVE_{name.upper()}" for name, variables in env.items())
    assert {name: variables[1:] for name, variables in env.items() if variables[1:]} == {
        "model_path": ("MAX_SERVE_MODEL",),
        "use_experimental_kernels": ("USE_EXPERIMENTAL_KERNELS",),
        "max_image_bytes": ("MAX_SERVE_MAX_LOCAL_IMAGE_BYTES",),
        "defer_resolve": ("MODULAR_PIPELINE_DEFER_RESOLVE",),
        "gpu_profiling": ("MODULAR_ENABLE_PROFILING",),
    }


def test_a_plugin_option_in_its_spellings(section: PluginSection) -> None:
    options = {option.name: option for option in catalog([section]) if option.plugin}
    aging = options["shortest_first__aging"]
    assert (aging.flag, aging.env, aging.path) == (
        "--shortest-first.aging",
        ("MAX_SERVE_SHORTEST_FIRST_AGING",),
        "shortest-first.aging",
    )
    assert options["shortest_first__strict"].off_flag == "--no-shortest-first.strict"
    assert all(name.isidentifier() for name in options)


@dataclass(frozen=True)
class Length:
    length: int = 1


@dataclass(frozen=True)
class Pace:
    """Options that a scheduler of a stranger shows with the core's own."""

    pace: Annotated[
        float, Option(used_by="scheduler", env=("ACME_PACE",)), Field(description="Steps a second.", ge=0)
    ] = 1.0
    rush: bool = False


PACE = PluginSection(name="acme", schema=Pace, plugin="acme", within="scheduling")


def test_flat_options_of_a_plugin_are_spelled_and_shown_as_the_cores_own() -> None:
    options = {option.name: option for option in catalog([PACE]) if option.plugin}
    pace = options["pace"]
    assert (pace.flag, pace.env, pace.path) == ("--pace", ("MAX_SERVE_PACE", "ACME_PACE"), "acme.pace")
    assert (pace.title, pace.page, pace.help) == ("Scheduling", "scheduling", "Steps a second.")
    assert (pace.marker.used_by, options["rush"].marker.used_by, options["rush"].off_flag) == (
        "scheduler",
        "",
        "--no-rush",
    )


@pytest.mark.parametrize(
    ("given", "environ", "content"),
    [
        ({"pace": 2.0}, {}, None),
        ({}, {"MAX_SERVE_PACE": "2"}, None),
        ({}, {}, "pace: 2\n"),
        ({}, {}, "scheduling:\n  pace: 2\n"),
    ],
)
def test_flat_options_are_read_from_every_source(
    given: dict[str, Any], environ: dict[str, str], content: str | None, yaml_file: Callable[..., str]
) -> None:
    typed = given if content is None else {"config_file": yaml_file(content)}
    settings = resolve(typed, environ=environ, sections=[PACE])
    assert "acme.pace" in settings.chosen
    assert PACE.load(settings.plugins.sections["acme"]) == Pace(pace=2.0)


def test_what_is_wrong_with_a_flat_option_reads_as_for_the_cores_own() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({"pace": -1.0, "max_batch_size": 0}, environ={}, sections=[PACE])
    assert str(caught.value) == "--pace: expected at least 0, not -1.0; --max-batch-size: expected at least 1, not 0"


@dataclass(frozen=True)
class Where:
    where: Path = Path()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            [
                PluginSection(name="own", schema=Length, plugin="a"),
                PluginSection(name="own", schema=Length, plugin="b"),
            ],
            "'b'",
        ),
        ([PluginSection(name="kv-cache", schema=Length, plugin="a")], "name of its own"),
        ([PluginSection(name="Bad Name", schema=Length, plugin="a")], "name of its own"),
        ([PluginSection(name="draft-max", schema=Length, plugin="a")], None),
        ([PluginSection(name="acme", schema=int, plugin="a")], "dataclass"),
        ([PluginSection(name="acme", schema=Length, plugin="a", within="scheduler")], "did you mean scheduling"),
        ([PluginSection(name="acme", schema=Where, plugin="a")], "acme.where"),
    ],
)
def test_sections_that_clash_or_cannot_be_spelled(sections: list[PluginSection], words: str | None) -> None:
    if words is None:
        assert catalog(sections)
        return
    with pytest.raises(PluginError, match=words) as caught:
        catalog(sections)
    assert "'a'" in str(caught.value)


def test_a_variable_that_would_mean_two_things_names_both_owners() -> None:
    section = PluginSection(name="max", schema=Length, plugin="acme")
    with pytest.raises(PluginError, match=r"MAX_SERVE_MAX_LENGTH.*model.max_length.*acme"):
        catalog([section])


def _must_be_quick(settings: Settings, pace: Pace) -> None:
    if pace.pace < (settings.scheduling.max_batch_size or 0):
        raise SettingsError("--race-pace is less than --max-batch-size")


RACE = PluginSection(
    name="race", schema=Pace, plugin="acme", within="race", title="Races", prefix="race_", check=_must_be_quick
)


def test_flat_options_may_have_a_page_of_their_own_and_a_prefix(yaml_file: Callable[..., str]) -> None:
    pace = next(option for option in catalog([RACE]) if option.key == "pace" and option.plugin)
    assert (pace.name, pace.flag, pace.env[0]) == ("race_pace", "--race-pace", "MAX_SERVE_RACE_PACE")
    assert (pace.title, pace.page) == ("Races", "race")
    for content in ("race_pace: 2\n", "race: {pace: 2}\n", "race: {race_pace: 2}\n"):
        settings = resolve({"config_file": yaml_file(content)}, environ={}, sections=[RACE])
        assert settings.plugins.sections["race"]["pace"] == 2


def test_a_section_checks_its_values_against_the_others() -> None:
    resolve({"race_pace": 4.0, "max_batch_size": 4}, environ={}, sections=[RACE])
    with pytest.raises(SettingsError, match=r"^--race-pace is less than --max-batch-size$"):
        resolve({"race_pace": 3.0, "max_batch_size": 4}, environ={}, sections=[RACE])


def test_options_of_a_feature_to_come_are_listed_and_refused() -> None:
    later = replace(RACE, unsupported="no race is held; leave it out")
    settings = resolve({"race_rush": True}, environ={}, sections=[later])
    with pytest.raises(UnsupportedError, match=r"^--race-rush is not supported yet \(no race is held; leave it out\)$"):
        validate_supported(settings, [later])
