"""Which fields does a request have? Those of the route, and those of every sampler that is registered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from maxserve.interfaces.errors import PluginError, RequestError
from maxserve.plugins.api.common.sampler_fields import ResolvedParams, SamplerFields

if TYPE_CHECKING:
    from maxserve.interfaces.engine import ModelInfo
    from maxserve.interfaces.sampler import RequestParams
    from maxserve.interfaces.tokenizer import Tokenizer

B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """Base of request bodies: no type is bent into another, unknown fields are kept, null means left out.

    A validator of the whole model, for a rule over several fields, raises RequestError with the field at fault:
    pydantic knows no place for its errors.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())

    def unknown(self) -> dict[str, Any]:
        """The fields given, and not null, that neither the route nor a sampler knows."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


class RequestFields:
    """The samplers' fields as routes use them: to extend a body's model, and to read sampling out of a body."""

    def __init__(self, params: Iterable[RequestParams], info: ModelInfo, tokenizer: Tokenizer | None = None) -> None:
        self._samplers = SamplerFields(params, vocab_size=info.vocab_size, tokenizer=tokenizer)
        self._defaults = self._samplers.usable(info.defaults)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._samplers.owners)

    def model(self, name: str, base: type[B]) -> type[B]:
        """`base` with the samplers' fields, all optional."""
        for params in self._samplers.params.values():
            for field in _hints(params.schema):
                if field in base.model_fields:
                    raise PluginError(
                        f"{params.owner}: its request field {field!r} is one that {name} has already; leave the plugin "
                        f"out with --no-plugin {params.plugin}"
                    )
        extended: type[B] = _extended(name, base, tuple(each.schema for each in self._samplers.params.values()))
        return extended

    @property
    def allowed(self) -> frozenset[str]:
        """The fields of samplers that no setting switches off."""
        params = self._samplers.params
        return frozenset(field for field, owner in self._samplers.owners.items() if not params[owner].switch)

    def sampling(self, body: Body) -> ResolvedParams:
        """What `body` says to each sampler, over what the model's generation_config says; checked by the samplers.

        RequestError with the field a sampler refuses.
        """
        given = {name: value for name in self.names if (value := getattr(body, name)) is not None}
        for name, value in given.items():
            _check_size(name, value)
        try:
            return self._samplers.resolve(given, self._defaults)
        except RequestError as error:
            named = [field for field in given if field in error.message]
            param = next(iter(named), error.param)
            raise RequestError(error.message, param=param, code=error.code or "invalid_value") from error


@lru_cache(maxsize=64)
def _extended(name: str, base: type[Body], classes: tuple[type[Any], ...]) -> Any:
    """`base` with the fields of these classes; the routers of a server share what they extend alike."""
    fields: dict[str, Any] = {
        field: (hint | None, Field(default=None, description=_summary(params)))
        for params in classes
        for field, hint in _hints(params).items()
    }
    return create_model(name, __base__=base, __doc__=base.__doc__, **fields)


def _hints(params: type[Any]) -> Mapping[str, Any]:
    try:
        hints = get_type_hints(params, include_extras=True)
    except NameError as error:
        where = f"{params.__module__}.{params.__qualname__}"
        raise PluginError(f"{where}: {error}; types of request fields must be importable at run time") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(params)}


def _check_size(field: str, value: Any) -> None:
    """RequestError for numbers that do not fit into a message to the worker, however deep they lie in `value`."""
    try:
        msgspec.msgpack.encode(value)
    except OverflowError as error:
        raise RequestError(f"{field}: a number does not fit into 64 bits", param=field, code="invalid_value") from error


def _summary(params: type[Any]) -> str:
    return (params.__doc__ or "").strip().partition("\n\n")[0]
