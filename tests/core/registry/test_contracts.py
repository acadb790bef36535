"""What a plugin's build returned is checked right after it, whatever the kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from fastapi import APIRouter

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.registry.contracts import PARTS, PROTOCOLS, contract_fault
from maxserve.core.registry.kinds import KINDS


class Policy:
    def plan(self, view: Any, plan: Any) -> None: ...


class LacksAnArgument:
    def plan(self, view: Any) -> None: ...


class TakesMore:
    def plan(self, view: Any, plan: Any, extra: int = 0, **others: Any) -> None: ...


def test_every_kind_has_a_contract() -> None:
    assert {*PROTOCOLS, "routes", "middleware", "architecture"} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("kind", [*PROTOCOLS, *PARTS])
def test_every_kind_is_checked(kind: str) -> None:
    protocol = (PROTOCOLS | PARTS)[kind]
    right = create_autospec(protocol, instance=True)
    for each in protocol.__mro__:
        for name in inspect.get_annotations(each):  # attributes have no value there
            setattr(right, name, ())
    assert contract_fault(kind, right) is None
    for wrong in ("text", None, object(), Policy):
        assert contract_fault(kind, wrong) is not None


@pytest.mark.parametrize("right", [Policy(), TakesMore()])
def test_what_is_right(right: Any) -> None:
    assert contract_fault("scheduler", right) is None


@pytest.mark.parametrize(
    ("built", "fault"),
    [
        (Policy, "returned the class Policy itself, not an object of it"),
        (None, "returned a NoneType without the method plan(view, plan) of StepPolicy"),
        (LacksAnArgument(), "returned a LacksAnArgument whose plan does not take the arguments (view, plan)"),
        (SimpleNamespace(plan=3), "returned a SimpleNamespace whose 'plan' is no method"),
    ],
)
def test_what_is_wrong_is_said(built: Any, fault: str) -> None:
    assert contract_fault("scheduler", built) == fault


def test_a_protocol_asks_for_what_it_goes_beyond_as_well() -> None:
    slots = create_autospec(PARTS["pool"], instance=True)
    slots.done = slots.rejected = ()
    assert (
        contract_fault("pool", slots)
        == f"returned a {type(slots).__name__} without the attribute 'wake' of AdapterSlots"
    )


def test_attributes_count_as_well() -> None:
    cache = create_autospec(PROTOCOLS["cache_strategy"], instance=True)
    cache.block_tables = ()
    assert (
        contract_fault("cache_strategy", cache)
        == f"returned a {type(cache).__name__} without the attribute 'layers' of Cache"
    )


def test_routes_are_a_router() -> None:
    assert contract_fault("routes", APIRouter()) is None
    assert contract_fault("routes", "router") == "returned a str, not a fastapi.APIRouter"


def test_the_plugin_is_named(plugin_host: Callable[..., Any]) -> None:
    own = Scheduler(name="own", build=lambda context: LacksAnArgument())
    host = plugin_host(SimpleNamespace(maxserve_schedulers=hookimpl(lambda: [own])))
    with pytest.raises(PluginError, match=r"plugin '.*' \(--plugin\): scheduler 'own': .* whose plan does not take"):
        host.build(host.schedulers.get("own"), None)
