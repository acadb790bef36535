"""What speculative methods draft with where the operator leaves it to the model's source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve import hookimpl
from maxserve.core.config import Settings, resolve
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.interfaces.model_source import ModelSource
from maxserve.core.interfaces.speculator import Speculator
from maxserve.core.loading.companions import with_companions
from maxserve.registry import Host

HEAD = {"draft_model_path": "acme/head"}
MakeHost = Callable[..., Host]


def source(companions: Mapping[str, Mapping[str, Any]]) -> SimpleNamespace:
    """A plugin that knows one model."""
    found = ModelSource(path="/models/acme", companions=companions)
    return SimpleNamespace(maxserve_model_source=hookimpl(lambda ref: found if ref == "acme/model" else None))


def settled(host: Host, **typed: Any) -> Settings:
    complete = partial(with_companions, host=host)
    options = {"model_path": "acme/model", **typed}
    return resolve(options, environ={}, sections=host.plugin_sections(), complete=complete)


def draft_path(settings: Settings) -> str:
    return str(settings.plugins.sections["draft_model"]["model_path"])


def test_a_chosen_method_takes_what_the_source_names(plugin_host: MakeHost) -> None:
    host = plugin_host(source({"eagle": {**HEAD, "num_speculative_tokens": 2}}))
    settings = settled(host, speculative_method="eagle")
    assert (draft_path(settings), settings.speculative.num_speculative_tokens) == ("acme/head", 2)


def test_what_is_typed_wins(plugin_host: MakeHost) -> None:
    host = plugin_host(source({"eagle": {**HEAD, "num_speculative_tokens": 2}}))
    settings = settled(host, speculative_method="eagle", num_speculative_tokens=4)
    assert (draft_path(settings), settings.speculative.num_speculative_tokens) == ("acme/head", 4)
    settings = settled(host, speculative_method="eagle", draft_model_path="my/head")
    assert (draft_path(settings), settings.speculative.num_speculative_tokens) == ("my/head", 5)


def test_options_of_the_draft_model_go_with_one_that_the_source_names(plugin_host: MakeHost) -> None:
    host = plugin_host(source({"eagle": HEAD}))
    settings = settled(host, speculative_method="eagle", draft_devices="cpu")
    assert draft_path(settings) == "acme/head"
    assert settings.plugins.sections["draft_model"]["devices"] == "cpu"
    with pytest.raises(SettingsError, match=r"--draft-data-parallel-degree 3: each replica .* drafts for itself"):
        settled(host, speculative_method="eagle", draft_data_parallel_degree=3)
    with pytest.raises(SettingsError, match="--draft-devices: there is no draft model"):
        settled(host, speculative_method="ngram", draft_devices="cpu")


SHARED = "both read --draft-model-path, which has one value"


@pytest.mark.parametrize("path", [None, "my/head"])
@pytest.mark.parametrize(("first", "then"), [("standalone", "eagle"), ("eagle", "standalone"), ("mtp", "eagle")])
def test_one_checkpoint_is_not_for_two_methods(plugin_host: MakeHost, first: str, then: str, path: str | None) -> None:
    host = plugin_host(source({"eagle": HEAD, "standalone": {"draft_model_path": "acme/small"}}))
    with pytest.raises(SettingsError, match=f"{first} and {then} .*{SHARED}.*choose another method"):
        settled(host, speculative_method="cascade", cascade__first=first, cascade__then=then, draft_model_path=path)


@pytest.mark.parametrize("first", ["ngram", "suffix"])
def test_a_checkpoint_is_for_the_method_beside_one_without(plugin_host: MakeHost, first: str) -> None:
    host = plugin_host(source({"eagle": HEAD}))
    settings = settled(host, speculative_method="cascade", cascade__first=first, cascade__then="eagle")
    assert draft_path(settings) == "acme/head"


def test_other_methods_and_none_take_nothing(plugin_host: MakeHost) -> None:
    host = plugin_host(source({"eagle": HEAD, "ngram": {"ngram__prompt_lookup_max": 3}}))
    for method in (None, "ngram", "mtp"):
        before = resolve({"speculative_method": method}, environ={}, sections=host.plugin_sections())
        assert with_companions(before, host) is before


@pytest.mark.parametrize("model", ["acme/model", "acme/other", ""])
def test_a_method_without_what_it_needs_is_refused_by_name(plugin_host: MakeHost, model: str) -> None:
    host = plugin_host(source({"eagle": HEAD}))
    chosen = {"weight_path": ("org/m/model.safetensors",)} if not model else {"model_path": model}
    with pytest.raises(
        SettingsError, match=r"^--speculative-method standalone needs --draft-model-path, and .* give it"
    ):
        settled(host, speculative_method="standalone", **chosen)


def test_a_source_that_names_no_option_is_a_plugin_error(plugin_host: MakeHost) -> None:
    host = plugin_host(source({"eagle": {**HEAD, "draft_model_pth": "x"}}))
    with pytest.raises(PluginError, match=r"names 'draft_model_pth' for eagle.*did you mean draft_model_path"):
        settled(host, speculative_method="eagle")


def test_a_method_that_requires_no_option_is_a_plugin_error(plugin_host: MakeHost) -> None:
    wrong = Speculator(name="wrong", build="acme:Drafter", required=("draft_model_pth",))
    host = plugin_host(SimpleNamespace(maxserve_speculators=hookimpl(lambda: [wrong])))
    with pytest.raises(PluginError, match=r"requires 'draft_model_pth'.*did you mean draft_model_path"):
        settled(host, speculative_method="wrong")
