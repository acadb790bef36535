from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve

Write = Callable[..., str]


def from_file(name: str, sections: Sequence[PluginSection] = SHARED, **typed: Any) -> Settings:
    return resolve({"config_file": name, **typed}, environ={}, sections=sections)


def draft_of(settings: Settings) -> tuple[str, str]:
    """The draft model and its device."""
    draft = settings.plugins.sections["draft_model"]
    return draft["model_path"], draft["devices"]


FLAT = "model-path: m\nmax_length: 64\nkv_cache_page_size: 32\nenable_variable_logits: false\nport: 9\nplugin: [a, b]\n"
NESTED = """
model: {model_path: m, max_length: 64}
kv_cache: {kv-cache-page-size: 32}
sampling: {enable_variable_logits: false}
server: {port: 9}
plugins: {plugin: [a, b]}
"""
CONVENTIONAL = """
pipeline_config:
  max_length: 64
  enable_variable_logits: false
  model_config: {model: m, kv_cache: {kv_cache_page_size: 32}}
server_config: {port: 9}
plugin: [a, b]
"""
MIXED = """
max_length: 64
model: m
kv_cache_config: {kv_cache_page_size: 32}
enable_variable_logits: no
port: 9
plugin: [a, b]
"""


@pytest.mark.parametrize("text", [FLAT, NESTED, CONVENTIONAL, MIXED])
def test_layouts_mean_the_same(text: str, yaml_file: Write) -> None:
    settings = from_file(yaml_file(text))
    assert settings.model.model_path == "m"
    assert settings.model.max_length == 64
    assert settings.kv_cache.kv_cache_page_size == 32
    assert settings.sampling.enable_variable_logits is False
    assert settings.server.port == 9
    assert settings.plugins.plugin == ("a", "b")
    assert {path for path, origin in settings.origins.items() if origin == "file"} == {
        "model.model_path",
        "model.max_length",
        "kv_cache.kv_cache_page_size",
        "sampling.enable_variable_logits",
        "server.port",
        "plugins.plugin",
    }


def test_one_section_is_chosen_by_name(yaml_file: Write) -> None:
    name = yaml_file("small: {max_batch_size: 4}\nlarge: {scheduling: {max_batch_size: 128}}\nnote: hello\n")
    assert from_file(name, section_name="small").scheduling.max_batch_size == 4
    assert from_file(name, section_name="large").scheduling.max_batch_size == 128
    with pytest.raises(SettingsError, match=r"has no such section; it has: small, large$"):
        from_file(name, section_name="medium")
    with pytest.raises(SettingsError, match=r"not a section of serve.yaml, which has: small, large$"):
        from_file(name, section_name="note")


def test_a_sectioned_file_read_whole_points_to_the_option(yaml_file: Write) -> None:
    with pytest.raises(SettingsError, match=r"--section-name \(small or large\)"):
        from_file(yaml_file("small: {max_batch_size: 4}\nlarge: {max_batch_size: 128}\n"))


def test_every_unknown_key_is_in_one_error_with_near_matches(yaml_file: Write) -> None:
    text = "max_lenght: 5\nmodel: {chat_templat: x, max_batch_size: 4}\nkv_cache: 7\nconfig_file: other.yaml\n1: x\n"
    with pytest.raises(SettingsError) as caught:
        from_file(yaml_file(text))
    message = str(caught.value)
    assert message.startswith("serve.yaml: unknown keys max_lenght (did you mean max_length")
    for word in (
        "model.chat_templat (did you mean chat_template?)",
        "model.max_batch_size",
        "kv_cache (",
        "config_file",
    ):
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "5\n"])
def test_the_root_must_be_a_mapping(text: str, yaml_file: Write) -> None:
    with pytest.raises(SettingsError, match="expected keys with values"):
        from_file(yaml_file(text))


def test_an_empty_file_sets_nothing(yaml_file: Write) -> None:
    assert from_file(yaml_file("")).chosen == {"files.config_file"}
    assert from_file(yaml_file("model:\nserver:\n")).chosen == {"files.config_file"}


@pytest.mark.parametrize("text", ["a: [1\n", "a: 1\n b: 2\n", "\tx: 1\n", "a: !!python/object:os.system x\n"])
def test_bad_yaml_is_one_line_with_the_line_number(text: str, yaml_file: Write) -> None:
    with pytest.raises(SettingsError, match=r"serve.yaml is not YAML: .* in line \d") as caught:
        from_file(yaml_file(text))
    assert "\n" not in str(caught.value)


def test_a_key_that_comes_twice_is_an_error(yaml_file: Write) -> None:
    with pytest.raises(SettingsError, match="max_length comes twice in line 2"):
        from_file(yaml_file("max_length: 5\nmax_length: 6\n"))
    with pytest.raises(SettingsError, match=r"max_length in serve.yaml and model.max_length mean the same"):
        from_file(yaml_file("max_length: 5\nmodel: {max_length: 6}\n"))


def test_a_missing_or_unreadable_file(here: Any) -> None:
    with pytest.raises(SettingsError, match=r"--config-file nowhere.yaml: there is no such file"):
        from_file("nowhere.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        from_file(str(here))


def test_a_section_of_no_file(yaml_file: Write) -> None:
    with pytest.raises(SettingsError, match=r"--section-name: .*Give --config-file"):
        resolve({"section_name": "a"}, environ={})


def test_errors_name_key_and_file(yaml_file: Write) -> None:
    with pytest.raises(SettingsError, match=r"^model.max_length in serve.yaml: expected a whole number, not 1.5$"):
        from_file(yaml_file("model: {max_length: 1.5}\n"))
    with pytest.raises(SettingsError, match=r"^port in serve.yaml: expected from 0 to 65535, not 70000$"):
        from_file(yaml_file("port: 70000\n"))
    with pytest.raises(SettingsError, match=r"^port in serve.yaml: no value"):
        from_file(yaml_file("port:\n"))


def test_values_of_yaml(yaml_file: Write) -> None:
    text = "pipeline_role: PrefillOnly\ngpu_profiling: off\nmax_length: null\nenable_lora: yes\nlora_paths: x=y\n"
    text += "vision_config_overrides: {a: 1}\n"
    settings = from_file(yaml_file(text))
    assert settings.plugins.sections["role"]["pipeline_role"] == "prefill_only"
    assert settings.plugins.sections["profiling"] == {"gpu_profiling": "off"}
    assert settings.model.max_length is None
    assert "model.max_length" in settings.chosen
    assert settings.model.vision_config_overrides == {"a": 1}
    assert settings.plugins.sections["lora"]["lora_paths"] == ["x=y"]


@pytest.mark.parametrize(
    "text",
    [
        "draft_model_path: d\ndraft_devices: gpu:1\n",
        "draft_model: {model_path: d, devices: gpu:1}\n",
        "draft_model_config: {draft_model_path: d, draft-devices: gpu:1}\n",
    ],
)
def test_the_draft_model_in_the_file(text: str, yaml_file: Write) -> None:
    draft = draft_of(from_file(yaml_file(text), speculative_method="standalone"))
    assert draft == ("d", "gpu:1")


@pytest.mark.parametrize(
    "text",
    [
        "model_path: d\ndevices: gpu:1\n",
        "draft_model_path: d\ndraft_devices: gpu:1\n",
        "draft_model: {model_path: d, devices: gpu:1}\n",
        "model: {model_path: d, devices: gpu:1}\n",
    ],
)
def test_the_draft_model_in_a_file_of_its_own(text: str, yaml_file: Write) -> None:
    typed = {"draft_config_file": yaml_file(text, "draft.yaml"), "speculative_method": "standalone"}
    settings = resolve(typed, environ={}, sections=SHARED)
    assert draft_of(settings) == ("d", "gpu:1")
    assert settings.model == Settings().model


def test_the_draft_file_wins_over_the_common_one_and_has_sections_too(yaml_file: Write) -> None:
    name = yaml_file("draft_model_path: common\ndraft_devices: cpu\n")
    own = yaml_file("one: {model_path: own}\n", "draft.yaml")
    draft = draft_of(from_file(name, draft_config_file=own, draft_section_name="one", speculative_method="standalone"))
    assert draft == ("own", "cpu")
    with pytest.raises(SettingsError, match=r"draft.yaml: unknown key max_length"):
        resolve(
            {"draft_config_file": yaml_file("model_path: d\nmax_length: 5\n", "draft.yaml")},
            environ={},
            sections=SHARED,
        )


def test_the_file_may_be_named_by_the_environment(yaml_file: Write) -> None:
    environ = {"MAX_SERVE_CONFIG_FILE": yaml_file("a: {port: 9}\n"), "MAX_SERVE_SECTION_NAME": "a"}
    assert resolve({}, environ=environ).server.port == 9


@pytest.mark.parametrize("key", ["shortest-first", "shortest_first", "shortest_first_config"])
def test_a_plugin_section_in_the_file(key: str, yaml_file: Write, section: PluginSection) -> None:
    settings = from_file(yaml_file(f"{key}: {{aging: 80, names: [a, b]}}\n"), (section,))
    assert settings.plugins.sections["shortest-first"]["aging"] == 80.0
    assert settings.plugins.sections["shortest-first"]["names"] == ["a", "b"]
    with pytest.raises(SettingsError, match=r"shortest-first.agin \(did you mean aging"):
        from_file(yaml_file("shortest-first: {agin: 80}\n"), (section,))


def test_files_merge_in_order(yaml_file: Any, tmp_path: Any) -> None:
    for name, text in {"a": "max_length: 1\nmax_batch_size: 1\n", "b": "max_batch_size: 2\n"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    files = tuple(str(tmp_path / f"{name}.yaml") for name in "ab")
    settings = resolve({"config_file": files}, environ={})
    assert (settings.model.max_length, settings.scheduling.max_batch_size) == (1, 2)
    settings = resolve({"config_file": files[::-1]}, environ={})
    assert (settings.model.max_length, settings.scheduling.max_batch_size) == (1, 1)


@pytest.mark.parametrize(
    ("files", "sections", "length", "size"),
    [
        ("ab", ("one", "two"), 11, 22),  # one by one
        ("ab", ("one",), 21, 12),  # of each file
        ("a", ("one", "two"), 12, 12),  # both of one file
        ("a", ("two", "one"), 11, 12),
    ],
)
def test_sections_belong_to_files(tmp_path: Any, files: str, sections: tuple[str, ...], length: int, size: int) -> None:
    (tmp_path / "a.yaml").write_text("one: {max_length: 11}\ntwo: {max_length: 12, max_batch_size: 12}\n")
    (tmp_path / "b.yaml").write_text("one: {max_length: 21, max_batch_size: 12}\ntwo: {max_batch_size: 22}\n")
    paths = tuple(str(tmp_path / f"{name}.yaml") for name in files)
    settings = resolve({"config_file": paths, "section_name": sections}, environ={})
    assert (settings.model.max_length, settings.scheduling.max_batch_size) == (length, size)


def test_sections_that_belong_to_no_file(tmp_path: Any) -> None:
    (tmp_path / "a.yaml").write_text("one: {}\n")
    files = (str(tmp_path / "a.yaml"),) * 3
    with pytest.raises(SettingsError, match="--config-file is given 3 times and --section-name 2 times"):
        resolve({"config_file": files, "section_name": ("one", "one")}, environ={})
