from __future__ import annotations

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.plugins.commands.show import abbreviated, describe
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve


def lines(settings: Settings, **more: object) -> dict[str, str]:
    blocks = describe(settings, **more)  # type: ignore[arg-type]
    rows = [line.split(maxsplit=1) for block in blocks for line in block.splitlines()[1:]]
    return {row[0]: row[1] for row in rows}


def test_every_setting_is_shown_in_its_block() -> None:
    blocks = describe(Settings())
    assert [block.splitlines()[0] for block in blocks][:4] == ["Model", "KV cache", "Scheduling", "Sampling"]
    assert set(lines(Settings(), sections=SHARED)) == {option.name for option in catalog(SHARED)}


def test_what_was_chosen_says_where_it_came_from(here: object, section: PluginSection) -> None:
    settings = resolve(
        {"max_length": 5, "enable_variable_logits": False, "shortest_first__aging": 8.0},
        environ={"MAX_SERVE_PORT": "9"},
        sections=[section],
    )
    shown = lines(settings, sections=[section])
    assert shown["max_length"] == "5  (command line)"
    assert shown["enable_variable_logits"] == "off  (command line)"
    assert shown["port"] == "9  (environment)"
    assert shown["host"] == "127.0.0.1"
    assert shown["kv_cache_page_size"] == "-"
    assert shown["shortest-first.aging"] == "8.0  (command line)"
    assert shown["shortest-first.rounds"] == "3"


def test_a_long_list_of_weights_is_abbreviated() -> None:
    assert abbreviated(list("abcde")) == list("abcde")
    settings = resolve({"model": "m", "weight_path": tuple("abcdefg")}, environ={})
    assert lines(settings)["weight_path"] == "a, b, c, …, g  (command line)"
