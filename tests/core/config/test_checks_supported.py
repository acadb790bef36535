from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.config import Settings, resolve
from maxserve.core.config.catalog import OptionSpec, catalog
from maxserve.core.config.checks import validate_supported
from maxserve.core.interfaces.errors import SettingsError, UnsupportedError
from maxserve.testing.sections import built_in_sections

SPEC = json.loads((Path(__file__).parent / "options.json").read_text())
SHARED = [each for each in built_in_sections() if each.within]
UNSUPPORTED = [option for option in catalog(SHARED) if option.unsupported]
UNSUPPORTED_PATHS = {option.path for option in UNSUPPORTED}
UNSUPPORTED_VALUES = [option for option in catalog(SHARED) if option.unsupported_values and not option.unsupported]
SUPPORTED = {option.path for option in catalog(SHARED)} - UNSUPPORTED_PATHS
DRAFT = {"draft_model_path": "d", "speculative_method": "standalone"}
SAMPLES: dict[type, Any] = {bool: False, int: 3, float: 1.0, str: "x", dict: {"a": 1}}


def sample(option: OptionSpec) -> Any:
    """A value, where possible the default, which is refused like any other."""
    if option.default not in (None, "", (), {}):  # neither are 0 and False
        return option.default
    if option.shape.reader is not None:
        return option.shape.reader.metavar.strip("[]").split("|")[0]
    value = SAMPLES[option.shape.scalar]
    return (value,) if option.shape.many else value


def test_the_tuple_is_printed_and_has_no_strangers() -> None:
    """With `pytest -s`, what is not supported yet can be read here."""
    options = catalog(SHARED).by_path()
    lines = [f"{each.flag}: {each.unsupported}" for each in UNSUPPORTED]
    print(f"{len(UNSUPPORTED)} options are not supported yet, {len(SUPPORTED)} are:", *lines, sep="\n  ")
    assert len(UNSUPPORTED_PATHS) == len(UNSUPPORTED) == 5
    assert set(options) >= UNSUPPORTED_PATHS
    assert {each.path for each in UNSUPPORTED_VALUES} <= SUPPORTED


@pytest.mark.parametrize("path", [each.path for each in UNSUPPORTED])
def test_each_is_refused_with_every_value_that_asks_for_something(path: str, here: Path) -> None:
    option = catalog(SHARED).by_path()[path]
    (here / "x").write_text("x: {model_path: d}\n" if option.name == "draft_section_name" else "model_path: d\n")
    typed: dict[str, Any] = {option.name: asking(option)}
    if option.section == "draft_model":
        typed.setdefault("draft_model_path", "d")
        typed.setdefault("draft_quantization_encoding", "float32")
    if option.name == "draft_data_parallel_degree":
        typed["draft_devices"] = "gpu:0,1"
    if option.name == "draft_section_name":
        typed["draft_config_file"] = "x"
    settings = resolve(typed, environ={}, sections=SHARED)
    assert path in settings.chosen
    with pytest.raises(UnsupportedError) as caught:
        validate_supported(settings, SHARED)
    assert f"{option.flag} is not supported yet" in str(caught.value)
    assert "\n" not in str(caught.value)


def asking(option: Any) -> Any:
    """A value other than the default."""
    if isinstance(option.default, bool):
        return not option.default
    if isinstance(option.default, int):
        return option.default + 1
    others = {
        "devices": "gpu:0",
        "gpu_profiling": "on",
        "huggingface_model_revision": "v2",
        "huggingface_weight_revision": "v2",
    }
    return others.get(option.key) or sample(option)


@pytest.mark.parametrize("path", [each.path for each in UNSUPPORTED])
def test_each_is_taken_where_it_asks_for_nothing(path: str) -> None:
    """--no-device-graph-capture, and other spellings of what is there anyway."""
    option = catalog(SHARED).by_path()[path]
    if option.default is None or option.default == ():
        return  # such an option has no value that asks for nothing
    settings = resolve({option.name: option.default}, environ={}, sections=SHARED)
    validate_supported(settings, SHARED)


def test_a_switch_is_typed_off() -> None:
    from click.testing import CliRunner

    from maxserve.plugins.commands.options import GroupedCommand, serve_options

    taken: dict[str, Any] = {}
    command = GroupedCommand("serve", params=list(serve_options(SHARED)), callback=lambda **typed: taken.update(typed))
    for flag in ("--no-device-graph-capture", "--no-draft-force-download"):
        assert CliRunner().invoke(command, [flag]).exit_code == 0
        validate_supported(
            resolve({k: v for k, v in taken.items() if v is not None and v != ()}, environ={}, sections=SHARED), SHARED
        )


def test_what_is_supported_is_not_refused(here: Path) -> None:
    (here / "t.jinja").touch()
    special: dict[str, Any] = {"chat_template": "t.jinja", "zmq_endpoint_base": "ipc://x", "kv_cache_page_size": 32}
    special |= {"max_batch_size": 4, "max_length": 3, "config_file": "c.yaml", "section_name": "a"}
    special |= {"draft_config_file": "d.yaml", "draft_section_name": "a", "draft_devices": "cpu", **DRAFT}
    special |= {"enable_lora": True, "lora_dir": ".", "lora_hub": ("org/name",), "lora_paths": ("a=b",)}
    (here / "c.yaml").write_text("a: {}\n")
    (here / "d.yaml").write_text("a: {}\n")
    options = catalog(SHARED).by_path()
    typed = {options[path].name: special.get(options[path].name, sample(options[path])) for path in SUPPORTED}
    settings = resolve(typed, environ={}, sections=SHARED)
    assert settings.chosen == SUPPORTED
    validate_supported(settings, SHARED)


def test_defaults_are_not_refused() -> None:
    validate_supported(Settings(), SHARED)


def test_every_option_of_the_list_is_supported_or_refused() -> None:
    flags = {option.flag: option.path for option in catalog(SHARED)}
    for name in SPEC:
        assert flags[f"--{name}"] in SUPPORTED | UNSUPPORTED_PATHS


def test_all_are_named_at_once() -> None:
    typed = {"profile_serve": True, "device_graph_capture": True, "ep_size": 8}
    with pytest.raises(UnsupportedError, match="not supported yet") as caught:
        validate_supported(resolve(typed, environ={}, sections=SHARED), SHARED)
    assert all(
        flag in str(caught.value) for flag in ("--profile-serve is", "--device-graph-capture is", "--ep-size with")
    )


@pytest.mark.parametrize(
    ("typed", "fine"),
    [
        ({"task": "speech_token_generation"}, {"task": "embeddings_generation"}),
        ({"devices": "gpu:0,1"}, {"devices": "gpu:1"}),
        ({"devices": "gpu:0,1,2,3", "data_parallel_degree": 2}, {"devices": "gpu:0,1", "data_parallel_degree": 2}),
        ({"ep_size": 2}, {"ep_size": 1}),
    ],
)
def test_some_are_refused_by_value(typed: dict[str, Any], fine: dict[str, Any]) -> None:
    flag = "--" + next(iter(typed)).replace("_", "-")
    with pytest.raises(UnsupportedError, match=f"{flag} with .* is not supported yet"):
        validate_supported(resolve(typed, environ={}, sections=SHARED), SHARED)
    validate_supported(resolve(fine, environ={}, sections=SHARED), SHARED)


def test_the_table_of_values_is_tested_whole() -> None:
    assert len(UNSUPPORTED_VALUES) == 2


def test_a_section_of_no_draft_file_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--draft-section-name x: .*--draft-config-file"):
        resolve({"draft_section_name": "x"}, environ={}, sections=SHARED)
