from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve import WeightFormat, hookimpl
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.weight_format import WeightFile, WeightQuery
from maxserve.core.loading.weight_files import choose_weights, holds_config, model_files, open_weights, weight_format
from maxserve.core.registry.host import PluginHost, PluginOptions


class Acme:
    """A format of single files, of which `first.acme` is damaged."""

    def __init__(self, context: Context) -> None:
        pass

    def choose(self, query: WeightQuery) -> Sequence[str]:
        names = sorted(name for name in query.names if name.endswith(".acme"))
        if "first.acme" in names:
            raise ModelError(f"{query.ref}: first.acme is damaged")
        return [name for name in names if query.encoding in (None, name.partition(".")[0])][:1]

    def open(self, path: str, config: Mapping[str, Any]) -> WeightFile:
        return SimpleNamespace(path=path, tensors={}, config=config)  # type: ignore[return-value]


class WithConfig(Acme):
    def model_files(self, path: str) -> Mapping[str, bytes]:
        return {"config.json": Path(path).name.encode()}


def plugin(build: type[Acme] = Acme, priority: int = 0) -> SimpleNamespace:
    declared = WeightFormat(name="acme", build=build, suffixes=(".acme",), priority=priority)
    return SimpleNamespace(maxserve_weight_formats=hookimpl(lambda: [declared]))


def query(*names: str, encoding: str | None = None) -> WeightQuery:
    return WeightQuery(ref="org/m", names=names, fetch=lambda name: name, encoding=encoding)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["config.json"], "no weights: there is no .safetensors or .gguf file"),
        (
            ["pytorch_model.bin"],
            "only pickle weights, which can run code and are not read; convert them to safetensors",
        ),
        (["model.pth", "config.json"], "only pickle weights"),
        (["model.onnx"], "only ONNX weights"),
        (["openvino_model.xml"], "only OpenVINO weights"),
        (["adapter_model.safetensors"], "no weights of a model, only what lies beside them: adapter_model.safetensors"),
    ],
)
def test_says_what_there_is_instead(plugin_host: Any, names: list[str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        choose_weights(plugin_host(), query(*names))


def test_named_files_must_be_in_a_format_that_is_read(plugin_host: Any) -> None:
    host = plugin_host()
    weight_format(host, "a.safetensors")
    for name, reason in [("a.h5", "Keras files are not supported yet"), ("a.bin", "pickle"), ("a.npz", "files only")]:
        with pytest.raises(ModelError, match=reason):
            weight_format(host, name)


def test_without_its_plugin_a_format_is_named(plugin_host: Any) -> None:
    host = PluginHost.discover(PluginOptions(no_plugin=("builtin.gguf",), autoload=False), strict=True)
    with pytest.raises(ModelError, match="only GGUF weights, which are not supported yet"):
        choose_weights(host, query("m-q4_k_m.gguf"))
    with pytest.raises(ModelError, match="GGUF files are not supported yet"):
        weight_format(host, "a.gguf")


def test_a_plugin_brings_a_format(plugin_host: Any) -> None:
    host = plugin_host(plugin())
    assert choose_weights(host, query("b.acme", "a.acme", "config.json")) == ["a.acme"]
    assert choose_weights(host, query("b.acme", "a.acme", encoding="b")) == ["b.acme"]
    (file,) = open_weights(host, ["a.acme"], {"some": "config"})
    assert (file.path, file.config) == ("a.acme", {"some": "config"})  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"there is no \.safetensors or \.acme or \.gguf file"):
        choose_weights(host, query("config.json"))
    with pytest.raises(ModelError, match=r"weights are read from \.safetensors or \.acme or \.gguf files only"):
        weight_format(host, "a.npz")


def test_the_format_of_highest_priority_is_read(plugin_host: Any) -> None:
    names = ("a.acme", "model.safetensors")
    assert choose_weights(plugin_host(plugin()), query(*names)) == ["model.safetensors"]
    assert choose_weights(plugin_host(plugin(priority=11)), query(*names)) == ["a.acme"]
    assert choose_weights(plugin_host(plugin()), query("a.acme", "adapter_model.safetensors")) == ["a.acme"]


def test_incomplete_weights_are_not_passed_over_for_another_format(plugin_host: Any) -> None:
    with pytest.raises(ModelError, match=r"org/m: first\.acme is damaged"):
        choose_weights(plugin_host(plugin(priority=11)), query("first.acme", "model.safetensors"))


def test_only_some_formats_hold_the_config(plugin_host: Any) -> None:
    without, holding = plugin_host(plugin()), plugin_host(plugin(WithConfig))
    assert not holds_config(without, ["a.acme"])
    assert holds_config(holding, ["a.acme"])
    assert not holds_config(holding, ["a.safetensors"])
    assert model_files(without, ["a.acme"]) == {}
    assert model_files(holding, ["a.safetensors", "b.acme"]) == {"config.json": b"b.acme"}
