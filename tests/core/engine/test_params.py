from __future__ import annotations

import pytest

from maxserve.core.engine.params import SamplerFields
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.registry.host import Host, PluginOptions
from maxserve.samplers.temperature import Temperature
from maxserve.samplers.top_k import TopK


@pytest.fixture(scope="module")
def fields() -> SamplerFields:
    return SamplerFields(Host.discover(PluginOptions(), strict=True))


def test_fields_go_to_the_samplers_that_declare_them(fields: SamplerFields) -> None:
    grouped = fields.group({"temperature": 0.5, "top_k": 3, "top_p": None})
    assert grouped == {"temperature": {"temperature": 0.5}, "top_k": {"top_k": 3}}
    assert fields.read(grouped) == {Temperature: Temperature(0.5), TopK: TopK(3)}


def test_an_unknown_field_is_named(fields: SamplerFields) -> None:
    with pytest.raises(RequestError, match="no sampler has a field 'heat'") as caught:
        fields.group({"heat": 1})
    assert caught.value.param == "heat"


def test_what_the_request_says_beats_the_models_defaults(fields: SamplerFields) -> None:
    defaults = {"temperature": 0.7, "top_k": 20, "transformers_version": "5", "eos_token_id": 1}
    assert fields.with_defaults({"temperature": 0.1, "top_k": None}, defaults) == {
        "temperature": {"temperature": 0.1},
        "top_k": {"top_k": 20},
    }


@pytest.mark.parametrize(("do_sample", "temperature"), [(False, 0.0), (True, 0.7), (None, 0.7)])
def test_a_model_that_does_not_sample_is_greedy(
    fields: SamplerFields, do_sample: bool | None, temperature: float
) -> None:
    defaults = {"do_sample": do_sample, "temperature": 0.7}
    assert fields.with_defaults({}, defaults)["temperature"] == {"temperature": temperature}
    assert fields.with_defaults({"temperature": 1.0}, defaults)["temperature"] == {"temperature": 1.0}


@pytest.mark.parametrize(
    ("sampler", "values"),
    [("top_k", {"top_k": 1.5}), ("top_k", {"top_k": -2}), ("temperature", {"temperature": "hot"}), ("min_p", {"p": 1})],
)
def test_a_refused_value_is_the_requests_fault(fields: SamplerFields, sampler: str, values: dict[str, object]) -> None:
    with pytest.raises(RequestError) as caught:
        fields.read({sampler: values})
    assert caught.value.param == next(iter(values))


def test_defaults_a_sampler_refuses_are_left_out_with_a_warning(
    fields: SamplerFields, caplog: pytest.LogCaptureFixture
) -> None:
    defaults = {"temperature": 5.0, "top_k": 20, "top_p": None, "eos_token_id": 1}
    assert fields.usable(defaults) == {"top_k": 20, "eos_token_id": 1}
    assert "sampler temperature keeps its own default" in caplog.text


def test_fields_of_an_unknown_sampler_are_refused(fields: SamplerFields) -> None:
    with pytest.raises(RequestError, match="no sampler called 'heat'"):
        fields.read({"heat": {"heat": 1}})


def test_what_the_models_config_calls_otherwise(fields: SamplerFields) -> None:
    defaults = {"min_new_tokens": 3, "suppress_tokens": [4, 5], "bad_words_ids": [[1, 2]], "repetition_penalty": 1.2}
    assert fields.wishes({}, fields.usable(defaults)) == {
        "min_tokens": {"min_tokens": 3},
        "bad_words": {"bad_words_ids": [[1, 2], [4], [5]]},
        "repetition_penalty": {"repetition_penalty": 1.2},
    }


def test_what_asks_for_nothing_does_not_burden_a_step(fields: SamplerFields) -> None:
    assert fields.read({"frequency_penalty": {"frequency_penalty": 0}, "logit_bias": {"logit_bias": {}}}) == {}
