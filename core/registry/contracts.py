"""Checks that what a plugin's build returned can do what its kind promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from maxserve.core.interfaces.adapter import AdapterSlots
from maxserve.core.interfaces.architecture import ModelSpec
from maxserve.core.interfaces.chat_template import ChatTemplate
from maxserve.core.interfaces.component import Components, Declaration
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.images import ImagesOfSteps, ReadsImages
from maxserve.core.interfaces.linear import PackedLinear
from maxserve.core.interfaces.memory import PlannedMemory
from maxserve.core.interfaces.quantization import Rounding
from maxserve.core.interfaces.routes import Routes
from maxserve.core.interfaces.scheduler import StepCost
from maxserve.core.interfaces.speculator import DraftLengths, DraftModels
from maxserve.core.interfaces.tokenizer import Tokenizer, TokenizerFiles
from maxserve.core.registry.entries import where
from maxserve.core.registry.kinds import KINDS

PROTOCOLS: Mapping[str, type[Any]] = {kind.name: kind.builds for kind in KINDS if kind.builds is not None}
"""What the builds of each kind return. Architectures are checked with their spec, where the model is made."""

PARTS: Mapping[str, type[Any]] = {
    "spec": ModelSpec,
    "images": ReadsImages,
    "weight": PackedLinear,
    "image_steps": ImagesOfSteps,
    "rounding": Rounding,
    "cost": StepCost,
    "models": DraftModels,
    "lengths": DraftLengths,
    "pool": AdapterSlots,
    "memory": PlannedMemory,
    "maxserve_chat_template": ChatTemplate,
    "maxserve_tokenizer": TokenizerFiles,
    "tokenizer": Tokenizer,
}
"""What plugins return beside what their builds do: an architecture's config and images, a packed weight, what other
references of a declaration give, a template, a tokenizer."""


def contract_fault(kind: str, built: object) -> str | None:
    """Returns what is wrong with a thing of a kind (or of a part of one), None when it has all that is called."""
    if kind == Routes.kind:
        return _router_fault(built)
    protocol = PROTOCOLS.get(kind) or PARTS.get(kind)
    if protocol is None:
        return None
    if isinstance(built, type):
        return f"returned the class {built.__name__} itself, not an object of it"
    for name, member in _members(protocol).items():
        fault = _member_fault(protocol, built, name, member)
        if fault is not None:
            return f"returned a {type(built).__name__} {fault}"
    return None


def built_part(components: Components, entry: Declaration[Any], name: str, context: Any) -> Any:
    """What the declaration's reference of that name makes of `context`; PluginError unless it can do what it is for."""
    ref = getattr(entry.component, name)
    found = components.load(entry, ref)(context)
    if (fault := contract_fault(name, found)) is not None:
        raise PluginError(f"{entry.title}: {where(ref)!r} {fault}")
    return found


def _router_fault(built: object) -> str | None:
    from fastapi import APIRouter  # not in workers

    if isinstance(built, APIRouter):
        return None
    return f"returned a {type(built).__name__}, not a fastapi.APIRouter"


def _members(protocol: type[Any]) -> dict[str, Any]:
    """The public methods and attributes that a Protocol and those it goes beyond declare; attributes have no value."""
    found: dict[str, Any] = {}
    for each in reversed(protocol.__mro__[:-1]):
        found |= {**dict.fromkeys(inspect.get_annotations(each)), **vars(each)}
    return {name: value for name, value in found.items() if not name.startswith("_")}


def _member_fault(protocol: type[Any], built: object, name: str, member: Any) -> str | None:
    if not hasattr(built, name) or isinstance(built, str):  # texts have methods of many names
        what = f"method {name}{_shown(member)}" if inspect.isfunction(member) else f"attribute {name!r}"
        return f"without the {what} of {protocol.__name__}"
    if not inspect.isfunction(member):
        return None
    method = getattr(built, name)
    if not callable(method):
        return f"whose {name!r} is no method"
    return None if _takes(method, member) else f"whose {name} does not take the arguments {_shown(member)}"


def _takes(method: Callable[..., Any], promised: Callable[..., Any]) -> bool:
    """Whether `method` can be called as the core calls what the Protocol promises: positionally, but for `*` ones."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # written in C, which does not say
        return True
    parameters = list(inspect.signature(promised).parameters.values())[1:]
    positional = [None for each in parameters if each.kind is not each.KEYWORD_ONLY]
    named = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
    try:
        signature.bind(*positional, **named)
    except TypeError:
        return False
    return True


def _shown(member: Any) -> str:
    names = list(inspect.signature(member).parameters)[1:]
    return f"({', '.join(names)})"
