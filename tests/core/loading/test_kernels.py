"""Which kernels serve, and in which types weights are held and computed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import SettingsError, Unavailable
from maxserve.core.interfaces.layer_compiler import LayerCompiler
from maxserve.core.interfaces.linear import LinearMethod
from maxserve.core.loading.kernels import Chooser, CompiledLayer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Bfloat16:
    """Stores bfloat16 as it is."""

    def __init__(self, context: Any) -> None:
        if context.compute != torch.float32:
            raise Unavailable("float32 only")

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        return torch.bfloat16 if checkpoint == torch.bfloat16 else torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        return None


def named(name: str) -> Any:
    """A method that is known again."""
    return SimpleNamespace(
        name=name, storage_dtype=lambda checkpoint: torch.float32, create=lambda outputs, inputs, dtype: None
    )


def refuse(context: Any) -> Any:
    raise Unavailable("this machine has no fast unit")


def plugin(**functions: Any) -> Any:
    return SimpleNamespace(**{f"maxserve_{name}": hookimpl(function) for name, function in functions.items()})


@pytest.fixture
def chooser(plugin_host: Callable[..., Any]) -> Callable[..., Chooser]:
    """A chooser over the given linear methods alone."""

    def make(*methods: LinearMethod, device: torch.device = CPU, **options: Any) -> Chooser:
        host = plugin_host(plugin(linear_methods=lambda: methods), no_plugin=("builtin.native",))
        return Chooser(host, device, {}, **options)

    return make


def method(name: str, build: Any, **fields: Any) -> LinearMethod:
    return LinearMethod(name=name, build=build, **fields)


def test_a_cpu_computes_in_float32(chooser: Callable[..., Chooser]) -> None:
    for encoding in ("float32", "bfloat16", "float16"):
        found = chooser().computation(encoding, explicit=False)
        assert found.compute is torch.float32
        assert found.linear_method is None
        assert found.storage_dtype(encoding) is torch.float32


def test_16_bits_are_stored_where_a_method_stores_them(
    chooser: Callable[..., Chooser],
) -> None:
    for explicit in (False, True):
        found = chooser(method("sixteen", Bfloat16)).computation("bfloat16", explicit=explicit)
        assert (found.compute, found.storage_dtype("bfloat16")) == (torch.float32, torch.bfloat16)


def test_what_was_asked_for_and_cannot_be_stored_is_computed_so(chooser: Callable[..., Chooser]) -> None:
    """It was asked for to save memory."""
    found = chooser().computation("bfloat16", explicit=True)
    assert (found.compute, found.storage_dtype("bfloat16")) == (torch.bfloat16, torch.bfloat16)


def test_a_gpu_computes_in_the_type_of_the_checkpoint(chooser: Callable[..., Chooser]) -> None:
    found = chooser(device=GPU).computation("bfloat16", explicit=False)
    assert (found.compute, found.storage_dtype("bfloat16")) == (torch.bfloat16, torch.bfloat16)


def test_the_best_that_works_serves_and_the_others_say_why_once(
    chooser: Callable[..., Chooser], caplog: pytest.LogCaptureFixture
) -> None:
    chosen = chooser(
        method("low", lambda c: named("low"), priority=1),
        method("better", lambda c: named("better"), priority=2),
        method("broken", refuse, priority=9),
        method("as broken", refuse, priority=8),
        method("elsewhere", lambda c: named("elsewhere"), priority=10, devices=("cuda",)),
        method("compiled", lambda c: named("compiled"), priority=5, compiled=True),
    )
    assert chosen.best(chosen._host.linear_methods, None).name == "compiled"
    assert [record.message for record in caplog.records] == ["this machine has no fast unit"]


def test_what_is_compiled_can_be_left_out(chooser: Callable[..., Chooser]) -> None:
    chosen = chooser(
        method("low", lambda c: named("low")),
        method("compiled", lambda c: named("x"), priority=5, compiled=True),
        compiled=False,
    )
    assert chosen.best(chosen._host.linear_methods, None).name == "low"


def test_the_one_that_was_named_serves(chooser: Callable[..., Chooser]) -> None:
    methods = (
        method("low", lambda c: named("low"), priority=1),
        method("better", lambda c: named("better"), priority=2),
    )
    chosen = chooser(*methods, names={"linear_method": "low"})
    assert chosen.best(chosen._host.linear_methods, None).name == "low"
    chosen = chooser(*methods, names={"linear_method": "none"})
    assert chosen.best(chosen._host.linear_methods, None) is None


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ("broken", {}, "--linear-method broken: this machine has no fast unit; name another"),
        (
            "elsewhere",
            {},
            "--linear-method elsewhere: linear method 'elsewhere' of plugin .* is for cuda, and the model",
        ),
        ("compiled", {"compiled": False}, "--linear-method compiled: .* compiles, which --no-use-subgraphs forbids"),
    ],
)
def test_the_one_that_was_named_cannot_work(
    chooser: Callable[..., Chooser], named: str, options: dict[str, Any], message: str
) -> None:
    chosen = chooser(
        method("works", lambda c: named("works")),
        method("broken", refuse),
        method("elsewhere", lambda c: named("x"), devices=("cuda",)),
        method("compiled", lambda c: named("x"), compiled=True),
        names={"linear_method": named},
        **options,
    )
    with pytest.raises(SettingsError, match=message):
        chosen.best(chosen._host.linear_methods, None)


def test_a_compiler_may_give_a_module(plugin_host: Callable[..., Any]) -> None:
    class Doubled(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.inner = layer

        def forward(self, x: Any, batch: Any) -> Any:
            return self.inner(x) * self.scale

    class Compiler:
        def compile(self, layer: nn.Module, attention: Any) -> Any:
            return Doubled(layer)

    compilers = (LayerCompiler(name="acme", build=lambda context: Compiler()),)
    host = plugin_host(plugin(layer_compilers=lambda: compilers), no_plugin=("builtin.native",))
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(2, 2)])
    written, x = model.layers[0], torch.ones(1, 2)
    Chooser(host, CPU, {}).compile_layers(model, None, torch.float32)  # type: ignore[arg-type]
    assert torch.equal(model.layers[0](x, None), written(x) * 2)


def test_nothing_works(chooser: Callable[..., Chooser]) -> None:
    chosen = chooser(method("broken", refuse))
    assert chosen.best(chosen._host.linear_methods, None) is None


def test_layers_that_compile_are_replaced(plugin_host: Callable[..., Any]) -> None:
    class Compiler:
        def compile(self, layer: nn.Module, attention: Any) -> Any:
            return None if isinstance(layer, nn.Identity) else lambda x, batch: (x, batch, attention)

    compilers = (LayerCompiler(name="acme", build=lambda context: Compiler()),)
    host = plugin_host(plugin(layer_compilers=lambda: compilers), no_plugin=("builtin.native",))
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(2, 2), nn.Identity()])
    written = list(model.layers)
    Chooser(host, CPU, {}).compile_layers(model, "attention", torch.float32)  # type: ignore[arg-type]
    assert isinstance(model.layers[0], CompiledLayer)
    assert model.layers[0](1, 2) == (1, 2, "attention")
    assert model.layers[0].layer is written[0]
    assert model.layers[1] is written[1]
