from __future__ import annotations

import logging
from pathlib import Path

import pytest

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.config.sources import BEFORE_SETTINGS, read_dotenv
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve
SAMPLES = {bool: "true", int: "2048", float: "0.5", str: "text", dict: '{"a": 1}'}


def test_every_option_has_a_variable_that_sets_it() -> None:
    """All at once but those whose combination the checks refuse."""
    others = {"section_name", "config_file", "draft_section_name", "draft_config_file", "chat_template"}
    for option in catalog(SHARED):
        if option.name in others or option.name.startswith("draft_"):
            continue
        value = SAMPLES[option.shape.scalar]
        if option.shape.reader is not None:
            value = option.shape.reader.metavar.strip("[]").split("|")[0]
        extra = {"MAX_SERVE_QUANTIZATION_ENCODING": "float32", "MAX_SERVE_MODEL_PATH": "m"}
        special = {"zmq_endpoint_base": "ipc:///tmp/x", "data_parallel_degree": "1", "max_request_bytes": "2048"}
        special |= {"max_header_bytes": "2048", "num_speculative_tokens": "7"}
        special |= {"speculative_method": "ngram", "lora_dir": ".", "lora_hub": "org/name"}
        value = special.get(option.name, value)
        if option.section == "lora":
            extra["MAX_SERVE_ENABLE_LORA"] = "true"
        for name in option.env:
            assert option.path in resolve({}, environ={**extra, name: value}, sections=SHARED).chosen, name


def test_named_variables() -> None:
    environ = {
        "MAX_SERVE_HOST": "0.0.0.0",
        "MAX_SERVE_PORT": "81",
        "MAX_SERVE_LOG_PREFIX": "A",
        "MAX_SERVE_HEADLESS": "1",
    }
    settings = resolve({}, environ=environ, sections=SHARED)
    server = settings.server
    assert (server.host, server.port, server.log_prefix) == ("0.0.0.0", 81, "A")
    assert server.headless
    environ = {"USE_EXPERIMENTAL_KERNELS": "yes", "MAX_SERVE_USE_VENDOR_BLAS": "0"}
    kernels = resolve({}, environ=environ, sections=SHARED).plugins.sections["cuda"]
    assert kernels == {"use_experimental_kernels": True, "use_vendor_blas": False}
    profiling = resolve({}, environ={"MODULAR_ENABLE_PROFILING": "Detailed"}, sections=SHARED)
    assert profiling.plugins.sections["profiling"] == {"gpu_profiling": "detailed"}
    assert resolve({}, environ={"MODULAR_PIPELINE_DEFER_RESOLVE": "yes"}).model.defer_resolve


def test_the_uniform_name_wins_over_the_other() -> None:
    environ = {"USE_EXPERIMENTAL_KERNELS": "on", "MAX_SERVE_USE_EXPERIMENTAL_KERNELS": "off"}
    settings = resolve({}, environ=environ, sections=SHARED)
    assert settings.plugins.sections["cuda"]["use_experimental_kernels"] is False


def test_a_list_in_a_variable() -> None:
    assert resolve({}, environ={"MAX_SERVE_PLUGIN": "a, b"}).plugins.plugin == ("a", "b")
    assert resolve({}, environ={"MAX_SERVE_PLUGIN": '["a,b"]'}).plugins.plugin == ("a,b",)


def test_dotenv_counts_as_environment_and_the_real_one_wins(here: Path) -> None:
    (here / ".env").write_text(
        "# ours\nexport MAX_SERVE_PORT=81 # eighty-one\nMAX_SERVE_LOG_PREFIX='a # b'\nMAX_SERVE_HOST=\"0.0.0.0\"\n"
        "FOREIGN=x\nnot a line\nMAX_SERVE_MAX_LENGTH=\n"
    )
    settings = resolve({}, environ={"PATH": "", "MAX_SERVE_HOST": "::1"})
    assert (settings.server.port, settings.server.log_prefix, settings.server.host) == (81, "a # b", "::1")
    assert settings.chosen == {"server.port", "server.log_prefix", "server.host"}
    assert set(settings.origins.values()) == {"environment"}


def test_no_environment_means_no_dotenv_either(here: Path) -> None:
    (here / ".env").write_text("MAX_SERVE_PORT=81\n")
    assert resolve({}, environ={}) == Settings()


def test_errors_name_the_variable_and_its_file(here: Path) -> None:
    with pytest.raises(SettingsError, match=r"^MAX_SERVE_PORT: expected a whole number, not 'x'$"):
        resolve({}, environ={"MAX_SERVE_PORT": "x"})
    (here / ".env").write_text("MAX_SERVE_PORT=70000\n")
    with pytest.raises(SettingsError, match=r"^MAX_SERVE_PORT in .env: expected from 0 to 65535, not 70000$"):
        resolve({}, environ={"PATH": ""})


def test_a_file_that_is_not_text_is_an_error(here: Path) -> None:
    (here / ".env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        read_dotenv(Path(".env"))


@pytest.mark.parametrize("name", ["MAX_SERVE_API_KEY", "MAX_SERVE_OTHER_TOKEN"])
def test_a_secret_that_no_plugin_reads_ends_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is set, and no plugin that is there reads it"):
        resolve({}, environ={name: "x"}, sections=[])
    resolve({}, environ={name: ""}, sections=[])


def test_unknown_variables_of_ours_are_warned_of(caplog: pytest.LogCaptureFixture, section: PluginSection) -> None:
    environ = {"MAX_SERVE_MAX_LENGHT": "5", "MAX_SERVE_SHORTEST_FIRST_AGING": "5", "OTHER": "x"}
    environ |= dict.fromkeys(BEFORE_SETTINGS, "1")
    with caplog.at_level(logging.WARNING):
        resolve({}, environ=environ, sections=[section])
    assert [record.getMessage() for record in caplog.records] == [
        "the environment variable MAX_SERVE_MAX_LENGHT means nothing to maxserve (did you mean MAX_SERVE_MAX_LENGTH?)"
    ]
