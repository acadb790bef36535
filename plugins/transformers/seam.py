"""The seam between attention modules of transformers and the cache.

They call a function that is registered by name. Ours is known by the module itself which model and so which step it
works for. The calls of one step come in the same order every time: the n-th is that of layer n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.step_context import StepContext

NAME = "maxserve"  # of our function among transformers'
SEAM = "maxserve_seam"  # of the attribute by which modules find their way


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one call of the attention function is about: who calls, the sizes of its heads, and its rules."""

    module: str
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    scale: float | None
    softcap: float | None
    sinks: bool
    window: int | None = None

    @property
    def given(self) -> tuple[Any, ...]:
        """All of it that a call can be recognised by."""
        sizes = (self.heads, self.kv_heads, self.head_dim, self.value_dim)
        return (*sizes, self.scale, self.softcap, self.sinks)

    def cache_layer(self) -> CacheLayer:
        return CacheLayer(
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            window=self.window,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
            value_dim=None if self.value_dim == self.head_dim else self.value_dim,
        )


def given(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Any, ...]:
    """The same of a call that happens, as `Call.given`."""
    sizes = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    return (*sizes, options.get("scaling"), options.get("softcap"), options.get("s_aux") is not None)


class Seam:
    """The way of one model's attention modules to the step that runs."""

    def __init__(self, model: nn.Module, calls: Sequence[Call]) -> None:
        self._expected = [(model.get_submodule(call.module), call.given) for call in calls]
        self._step: StepContext | None = None
        self._next = 0
        for module, _ in self._expected:
            setattr(module, SEAM, self)

    @contextmanager
    def step(self, step: StepContext) -> Iterator[None]:
        """Attention is over `step` meanwhile; ModelError if not every layer attends."""
        self._step, self._next = step, 0
        try:
            yield
        finally:
            self._step = None
        if self._next != len(self._expected):
            raise ModelError(f"only {self._next} of {len(self._expected)} layers attended in a step")

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """[1, T, heads, value_size] for query [1, heads, T, head_dim], keys and values likewise."""
        step, layer = self._step, self._next
        if step is None or layer == len(self._expected):
            raise ModelError(f"{type(module).__name__} attends once more than it did when the model was looked at")
        expected, rules = self._expected[layer]
        if (
            module is not expected
            or given(query, key, value, options) != rules
            or query.shape[2] != len(step.inputs.positions)
        ):
            raise ModelError(
                f"layer {layer}: {type(module).__name__} attends by other rules than when the model was looked at: "
                f"{given(query, key, value, options)} for {query.shape[2]} tokens instead of {rules}"
            )
        self._next += 1
        q, k, v = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))
        return step.attend(layer, q, k, v, options.get("s_aux"))[None]


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **options: Any
) -> tuple[Tensor, None]:
    """The function that is registered. Which tokens see which is the cache's business: the mask is none."""
    seam: Seam = getattr(module, SEAM)
    return seam.attend(module, query, key, value, options), None


def register() -> None:
    """Makes our function known to transformers; it has no function for masks, so none are made."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


def attend_with(model: nn.Module, name: str) -> None:
    """Lets all modules of a model attend by the function of that name from now on."""
    for config in configs_of(model):
        config._attn_implementation = name


def configs_of(model: nn.Module) -> list[Any]:
    """Every config that some module of the model looks at."""
    found: dict[int, Any] = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }
    return list(found.values())
