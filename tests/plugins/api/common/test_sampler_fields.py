from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from maxserve.core.assembly.params import request_params
from maxserve.core.config import resolve
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import PluginError, RequestError
from maxserve.core.interfaces.sampler import Sampler
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.api.common.sampler_fields import SamplerFields
from maxserve.samplers.temperature import Temperature
from maxserve.samplers.top_k import TopK


@pytest.fixture(scope="module")
def fields() -> SamplerFields:
    return SamplerFields(request_params(PluginHost.discover(PluginOptions(), strict=True)))


def test_fields_go_to_the_samplers_that_declare_them(fields: SamplerFields) -> None:
    grouped = fields.group({"temperature": 0.5, "top_k": 3, "top_p": None})
    assert grouped == {"temperature": {"temperature": 0.5}, "top_k": {"top_k": 3}}
    assert fields.read(grouped) == {Temperature: Temperature(0.5), TopK: TopK(3)}


def test_an_unknown_field_is_named(fields: SamplerFields) -> None:
    with pytest.raises(RequestError, match="no sampler has a field 'heat'") as caught:
        fields.group({"heat": 1})
    assert caught.value.param == "heat"


def test_what_the_request_says_beats_the_models_defaults(fields: SamplerFields) -> None:
    defaults = fields.usable({"temperature": 0.7, "top_k": 20, "transformers_version": "5", "eos_token_id": 1})
    assert fields.with_defaults({"temperature": 0.1, "top_k": None}, defaults) == {
        "temperature": {"temperature": 0.1},
        "top_k": {"top_k": 20},
    }


@pytest.mark.parametrize(("do_sample", "temperature"), [(False, 0.0), (True, 0.7), (None, 0.7)])
def test_a_model_that_does_not_sample_is_greedy(
    fields: SamplerFields, do_sample: bool | None, temperature: float
) -> None:
    defaults = fields.usable({"do_sample": do_sample, "temperature": 0.7})
    assert fields.with_defaults({}, defaults)["temperature"] == {"temperature": temperature}
    assert fields.with_defaults({"temperature": 1.0}, defaults)["temperature"] == {"temperature": 1.0}


def test_defaults_a_sampler_refuses_are_left_out_with_a_warning(
    fields: SamplerFields, caplog: pytest.LogCaptureFixture
) -> None:
    defaults = {"temperature": 5.0, "top_k": 20, "top_p": None, "eos_token_id": 1}
    assert fields.usable(defaults) == {"top_k": 20}
    assert "sampler temperature keeps its own default" in caplog.text


def test_what_the_models_config_calls_otherwise(fields: SamplerFields) -> None:
    defaults = {"min_new_tokens": 3, "suppress_tokens": [4, 5], "bad_words_ids": [[1, 2]], "repetition_penalty": 1.2}
    assert fields.resolve({}, fields.usable(defaults)).fields == {
        "min_tokens": {"min_tokens": 3},
        "bad_words": {"bad_words_ids": [[1, 2], [4], [5]]},
        "repetition_penalty": {"repetition_penalty": 1.2},
    }


@dataclass(frozen=True)
class AtLeast:
    """What a stranger's package may offer in place of the built-in sampler."""

    at_least: int = 0

    @staticmethod
    def defaults_from(generation_config: Mapping[str, Any]) -> dict[str, Any]:
        return {"at_least": generation_config["min_length"]} if "min_length" in generation_config else {}

    @property
    def min_stop_tokens(self) -> int:
        return self.at_least


def test_whoever_holds_back_the_end_says_from_when_stop_strings_count(fields: SamplerFields) -> None:
    resolved = fields.resolve({"min_tokens": 3, "top_k": 2}, {})
    assert (resolved.min_stop_tokens, resolved.min_stop_field) == (3, "min_tokens")
    assert fields.resolve({"top_k": 2}, {}).min_stop_tokens == 0


@pytest.mark.parametrize("without", [(), ("builtin.samplers",)])
def test_a_strangers_minimum_means_what_the_built_in_one_does(
    without: tuple[str, ...], plugin_host: Callable[..., PluginHost]
) -> None:
    host = plugin_host(Stranger(), no_plugin=without)
    resolved = SamplerFields(request_params(host)).resolve({"at_least": 4}, {})
    assert (resolved.min_stop_tokens, resolved.min_stop_field) == (4, "at_least")
    assert SamplerFields(request_params(host)).usable({"min_length": 2, "at_least": 7}) == {"at_least": 2}


class Stranger:
    @hookimpl
    def maxserve_samplers(self) -> list[Sampler]:
        return [Sampler(name="at_least", build="acme:build", params=AtLeast)]


@dataclass(frozen=True)
class Deadline:
    deadline: float = 0.0

    def __post_init__(self) -> None:
        if self.deadline < 0:
            raise ValueError("deadline must not be negative")


class Deadlines:
    @hookimpl
    def maxserve_schedulers(self) -> list[Scheduler]:
        return [Scheduler(name="deadline", build="acme:build", params=Deadline)]


def test_the_chosen_scheduler_has_request_fields_too(plugin_host: Callable[..., PluginHost]) -> None:
    host = plugin_host(Deadlines())
    chosen = SamplerFields(
        request_params(host, resolve({"scheduler": "deadline"}, environ={}, sections=host.plugin_sections()))
    )
    resolved = chosen.resolve({"deadline": 2.0, "top_k": 3}, {})
    assert chosen.read(resolved.fields) == {Deadline: Deadline(2.0), TopK: TopK(3)}
    with pytest.raises(RequestError, match="deadline must not be negative") as caught:
        chosen.resolve({"deadline": -1.0}, {})
    assert caught.value.param == "deadline"
    with pytest.raises(RequestError, match="no sampler has a field 'deadline'"):
        SamplerFields(request_params(host, resolve({}, environ={}, sections=host.plugin_sections()))).resolve(
            {"deadline": 2.0}, {}
        )


def test_a_field_of_a_scheduler_and_of_a_sampler_is_a_conflict(plugin_host: Callable[..., PluginHost]) -> None:
    class Both(Deadlines):
        @hookimpl
        def maxserve_samplers(self) -> list[Sampler]:
            return [Sampler(name="late", build="acme:build", params=Deadline)]

    with pytest.raises(PluginError, match="request field 'deadline' is declared by"):
        plugin_host(Both())
