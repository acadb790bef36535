"""Objects of params classes, made of what a request gave."""

from __future__ import annotations

import pytest

from maxserve.core.assembly.params import ParamsReader, request_params
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.registry.host import PluginHost, PluginOptions


@pytest.fixture(scope="module")
def reader() -> ParamsReader:
    return ParamsReader(request_params(PluginHost.discover(PluginOptions(), strict=True)))


@pytest.mark.parametrize(
    ("sampler", "values"),
    [("top_k", {"top_k": 1.5}), ("top_k", {"top_k": -2}), ("temperature", {"temperature": "hot"}), ("min_p", {"p": 1})],
)
def test_a_refused_value_is_the_requests_fault(reader: ParamsReader, sampler: str, values: dict[str, object]) -> None:
    with pytest.raises(RequestError) as caught:
        reader.read({sampler: values})
    assert caught.value.param == next(iter(values))


def test_fields_of_an_unknown_sampler_are_refused(reader: ParamsReader) -> None:
    with pytest.raises(RequestError, match="no sampler called 'heat'"):
        reader.read({"heat": {"heat": 1}})


def test_what_asks_for_nothing_does_not_burden_a_step(reader: ParamsReader) -> None:
    assert reader.read({"frequency_penalty": {"frequency_penalty": 0}, "logit_bias": {"logit_bias": {}}}) == {}
