"""Plugins that are wrong cost the request that asks for them, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maxserve.core.engine.draw import Stage
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.linear import LinearMethod
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.kernels import Chooser
from maxserve.samplers.temperature import Temperature

FAULTS = ("greedy", "prepare", "apply", "observe", "shape", "type", "nan")


@dataclass(frozen=True, slots=True)
class Own:
    strength: float = 0.0


class Broken:
    """A transform that goes wrong in one method, for the rows of requests that ask for it."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def _fail_at(self, method: str) -> None:
        if self.fault == method:
            raise KeyError(f"wrong at {method}")

    def greedy(self, rows: Any) -> list[bool]:
        if rows.asked(Own):
            self._fail_at("greedy")
        return [False] * len(rows)

    def prepare(self, rows: Any) -> list[int]:
        self._fail_at("prepare")
        return list(rows.asking(Own))

    def apply(self, logits: torch.Tensor, state: list[int]) -> torch.Tensor:
        self._fail_at("apply")
        if self.fault == "nan":
            logits[state] = torch.nan
        if self.fault == "shape":
            return logits[:, :-1]
        return logits.double() if self.fault == "type" else logits

    def observe(self, rows: Any, tokens: Any) -> None:
        if rows.asked(Own):
            self._fail_at("observe")


def params_of(fields: Any) -> dict[type[Any], Any]:
    made: dict[type[Any], Any] = {Temperature: Temperature(**fields.get("temperature", {}))}
    if "own" in fields:
        made[Own] = Own(**fields["own"])
    return made


def request(id: str, **fields: Any) -> Request:
    given = {name: {"strength": value} for name, value in fields.items()}
    params = SamplingParams(max_tokens=6, ignore_eos=True, seed=3, fields=given)
    return Request(id=id, prompt=(5, len(id), 7), params=params)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_sampler_fails_who_asked_for_it(make_engine: Any, run: Any, fault: str, overlap: bool) -> None:
    def texts(*requests: Request) -> dict[str, Any]:
        engine = make_engine(stages=[Stage.of("own", Broken(fault), keeps_argmax=False, params=Own)], overlap=overlap)
        engine._parts = _reading(engine._parts)
        for each in requests:
            engine.add(each)
        return run(engine)

    outputs = texts(request("a"), request("bb", own=1.0), request("ccc"))
    assert outputs["bb"][-1].finish == "error"
    what = "not finite" if fault == "nan" else "sampler 'own' failed"
    assert what in (outputs["bb"][-1].error or "")
    alone = texts(request("a"), request("ccc"))
    for id in ("a", "ccc"):
        assert outputs[id][-1].finish == "length"
        assert [o.tokens for o in outputs[id]] == [o.tokens for o in alone[id]]


def _reading(parts: Any) -> Any:
    from dataclasses import replace

    return replace(parts, read_params=params_of)


class Wide:
    """A model whose logits are wider than its vocabulary."""

    def forward(self, step: Any) -> torch.Tensor:
        return torch.zeros(len(step.inputs.input_ids), 4)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(hidden), 1000)


class Short(Wide):
    """A model that forgets tokens."""

    def forward(self, step: Any) -> torch.Tensor:
        return torch.zeros(1, 4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Wide(), r"logits returned \[1, 1000\]; \[rows, vocab_size\]"),
        (Short(), r"forward returned \[1, 4\] for 3 tokens"),
    ],
)
def test_what_a_model_returns_has_the_right_size(make_engine: Any, run: Any, model: Any, message: str) -> None:
    engine = make_engine(model=model)
    engine.add(request("a"))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(run(engine)["a"][-1].error)


class Kept:
    def __init__(self, product: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.product = product

    def load_rows(self, rows: torch.Tensor, first: int) -> None: ...

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self.product(x)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (Kept(lambda x: x[:, :1]), r"multiply returned \[1, 1\] torch.float32 for a row of ones"),
        (Kept(lambda x: x.double()), r"multiply returned \[1, 64\] torch.float64"),
        (Kept(lambda x: x * torch.nan), r"finite values of torch.float32 are due"),
        ("weight", r"create returned a str without the method load_rows\(rows, first\) of PackedLinear"),
    ],
)
def test_a_linear_method_is_tried_before_it_gets_a_model(plugin_host: Any, packed: Any, message: str) -> None:
    built = SimpleNamespace(
        storage_dtype=lambda checkpoint: torch.float32, create=lambda outputs, inputs, dtype: packed
    )
    method = LinearMethod(name="own", build=lambda context: built, priority=99)
    host = plugin_host(SimpleNamespace(maxserve_linear_methods=hookimpl(lambda: [method])))
    with pytest.raises(PluginError, match=rf"linear method 'own': {message}|{message}"):
        Chooser(host, torch.device("cpu"), {}).computation("float32", explicit=False)
