from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from maxserve.core.assembly.params import request_params
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import PluginError, RequestError
from maxserve.core.interfaces.sampler import RequestParams, Sampler
from maxserve.plugins.api.common.fields import Body, RequestFields


@dataclass(frozen=True)
class Heat:
    """How hot."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ValueError("temperature must be between 0 and 2")

    @staticmethod
    def defaults_from(generation_config: Mapping[str, Any]) -> dict[str, Any]:
        if generation_config.get("do_sample") is False:
            return {"temperature": 0.0}
        return {"temperature": generation_config["temperature"]} if "temperature" in generation_config else {}


@dataclass(frozen=True)
class Dry:
    dry_strength: float = 0.0
    dry_breakers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dry_strength and "" in self.dry_breakers:
            raise ValueError("dry_breakers must not be empty strings")


class Ask(Body):
    """A question."""

    prompt: str


def fields(*params: type[Any], **defaults: Any) -> RequestFields:
    declared = [
        RequestParams(component=cls.__name__.lower(), schema=cls, owner=cls.__name__, plugin="tested") for cls in params
    ]
    info: Any = SimpleNamespace(defaults=defaults, vocab_size=50)
    return RequestFields(declared, info)


def sampling(made: RequestFields, body: str) -> Any:
    return made.sampling(made.model("Ask", Ask).model_validate_json(body)).fields


def test_samplers_fields_are_optional_fields_of_the_body() -> None:
    model = fields(Heat, Dry).model("Ask", Ask)
    properties = model.model_json_schema()["properties"]
    assert properties.keys() == {"prompt", "temperature", "dry_strength", "dry_breakers"}
    assert properties["temperature"]["description"] == "How hot."
    assert model.model_json_schema()["required"] == ["prompt"]


def test_given_fields_by_sampler() -> None:
    made = fields(Heat, Dry)
    assert sampling(made, '{"prompt": "x"}') == {}
    body = '{"prompt": "x", "temperature": 1, "dry_breakers": ["a"], "dry_strength": null}'
    assert sampling(made, body) == {"heat": {"temperature": 1.0}, "dry": {"dry_breakers": ("a",)}}


def test_wrong_types_are_named() -> None:
    with pytest.raises(ValidationError) as error:
        sampling(fields(Heat), '{"prompt": "x", "temperature": "1"}')
    assert error.value.errors()[0]["loc"] == ("temperature",)


def test_what_a_sampler_refuses_names_its_field() -> None:
    with pytest.raises(RequestError, match="between 0 and 2") as error:
        sampling(fields(Heat, Dry), '{"prompt": "x", "temperature": 3}')
    assert error.value.param == "temperature"
    with pytest.raises(RequestError) as error:
        sampling(fields(Heat, Dry), '{"prompt": "x", "dry_strength": 1, "dry_breakers": [""]}')
    assert error.value.param == "dry_breakers"


def test_defaults_of_the_model_fill_what_was_left_out() -> None:
    made = fields(Heat, temperature=0.6, top_k=5, dry_strength=2.0)
    assert sampling(made, '{"prompt": "x"}') == {"heat": {"temperature": 0.6}}
    assert sampling(made, '{"prompt": "x", "temperature": 0}') == {"heat": {"temperature": 0.0}}


def test_a_sampler_reads_the_models_defaults_itself() -> None:
    made = fields(Heat, temperature=0.6, do_sample=False)
    assert sampling(made, '{"prompt": "x"}') == {"heat": {"temperature": 0.0}}
    assert sampling(made, '{"prompt": "x", "temperature": 0.5}') == {"heat": {"temperature": 0.5}}


def test_a_default_its_sampler_refuses_is_left_out_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = fields(Heat, Dry, temperature=9.0, dry_strength=1.0)
    assert "temperature must be between 0 and 2" in caplog.text
    assert sampling(made, '{"prompt": "x"}') == {"dry": {"dry_strength": 1.0}}


def test_unknown_fields_are_kept_but_for_nulls() -> None:
    body = Ask.model_validate_json('{"prompt": "x", "b": 1, "c": null}')
    assert body.unknown() == {"b": 1}


class Question(Body):
    """Has a field that is no request's otherwise."""

    dry_strength: float | None = None


def test_a_field_that_the_route_has_already(plugin_host: Any) -> None:
    dry = Sampler(name="dry", build="x:y", params=Dry)
    host = plugin_host(SimpleNamespace(maxserve_samplers=hookimpl(lambda: [dry])))
    info: Any = SimpleNamespace(defaults={}, vocab_size=50)
    with pytest.raises(
        PluginError, match=r"sampler 'dry' of plugin .*: its request field 'dry_strength' .*--no-plugin"
    ):
        RequestFields(request_params(host), info).model("Question", Question)


@dataclass(frozen=True)
class Bias:
    strength: int = 0
    weights: dict[str, int] | None = None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (f'{{"prompt": "x", "strength": {2**64}}}', "strength"),
        (f'{{"prompt": "x", "strength": {-(2**63) - 1}}}', "strength"),
        (f'{{"prompt": "x", "weights": {{"a": {10**400}}}}}', "weights"),
    ],
)
def test_numbers_that_no_message_holds_are_refused(body: str, param: str) -> None:
    with pytest.raises(RequestError, match="64 bits") as caught:
        sampling(fields(Bias), body)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_routers_with_the_same_samplers_share_a_model() -> None:
    assert fields(Heat).model("Ask", Ask) is fields(Heat).model("Ask", Ask)
    assert fields(Heat).model("Ask", Ask) is not fields(Heat, Dry).model("Ask", Ask)
    assert "dry_strength" not in fields(Heat).model("Ask", Ask).model_fields
