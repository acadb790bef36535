"""Samplers that are a function of logits and a number for each row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from maxserve.interfaces.sampler import Rows, Sampler, SamplerContext

if TYPE_CHECKING:
    from torch import Tensor

    Transform = Callable[..., Tensor]


def by_row(transform: Transform, **declared: Any) -> Sampler:
    """A Sampler that calls `transform(logits, …)`, with logits [rows, vocab] and a tensor [rows, 1] by each other name.

    The names are request fields. Their defaults ask for nothing; types are numbers or booleans, and
    `Annotated[float, Field(ge=0)]`, with pydantic's Field, says which ones there are. The sampler is called as the
    function. `declared` are further fields of it, such as `stage` and `keeps_argmax`.
    """
    params = _params(transform)

    def build(context: SamplerContext) -> ByRow:
        return ByRow(transform, params)

    build.__module__, build.__qualname__ = transform.__module__, transform.__qualname__
    summary = (inspect.getdoc(transform) or "").partition("\n")[0]
    fields_of_it: dict[str, Any] = {"name": transform.__name__, "params": params, "build": build, "summary": summary}
    return Sampler(**(fields_of_it | declared))


@cache
def _params(transform: Transform) -> type[Any]:
    """The params class of the function's parameters behind the first, made once: a request is known by it."""
    hints, names = get_type_hints(transform, include_extras=True), list(inspect.signature(transform).parameters)[1:]
    defaults = {name: inspect.signature(transform).parameters[name].default for name in names}
    adapters: dict[str, Any] = {}  # made at the first value: pydantic takes its time

    def check(self: Any) -> None:
        from pydantic import TypeAdapter, ValidationError

        for each in fields(self):
            adapter = adapters.get(each.name) or adapters.setdefault(each.name, TypeAdapter(hints[each.name]))
            value = getattr(self, each.name)
            try:
                adapter.validate_python(value)
            except ValidationError as error:
                raise ValueError(f"{each.name}: {error.errors()[0]['msg']}, got {value!r}") from None

    parts = [
        (name, hints[name]) if default is inspect.Parameter.empty else (name, hints[name], field(default=default))
        for name, default in defaults.items()
    ]
    return make_dataclass(transform.__name__, parts, namespace={"__post_init__": check}, frozen=True)


class ByRow:
    """A LogitTransform of a function."""

    steady = True

    def __init__(self, transform: Transform, params: type[Any]) -> None:
        self._transform = transform
        self._params = params

    def prepare(self, rows: Rows) -> Mapping[str, Tensor]:
        given = rows.params(self._params)
        names = [each.name for each in fields(self._params)]
        return {name: rows.tensor([getattr(params, name) for params in given])[:, None] for name in names}

    def apply(self, logits: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return self._transform(logits, **values)
