"""Request fields of samplers, and what the model's own generation_config says of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.sampler import RequestParams
from maxserve.loading import ParamsReader

if TYPE_CHECKING:
    from maxserve.interfaces.tokenizer import Tokenizer

log = logging.getLogger("maxserve.server")

Grouped = dict[str, dict[str, Any]]


class ResolvedParams(msgspec.Struct, frozen=True, kw_only=True):
    """What travels to a worker, by sampler, and the tokens before which no stop string ends the answer.

    `min_stop_field` is the request field that says so, empty when none does.
    """

    fields: Grouped
    min_stop_tokens: int = 0
    min_stop_field: str = ""


class SamplerFields(ParamsReader):
    """The request fields of samplers and of the scheduler, by field and by component."""

    def __init__(
        self,
        params: Iterable[RequestParams],
        *,
        vocab_size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__(params, vocab_size=vocab_size)
        self.owners: dict[str, str] = {
            field.name: name for name, each in self.params.items() for field in dataclasses.fields(each.schema)
        }
        self._tokenizer = tokenizer

    def group(self, values: Mapping[str, Any]) -> Grouped:
        """Fields by sampler name; None counts as not given."""
        grouped: Grouped = {}
        for field, value in values.items():
            if field not in self.owners:
                raise RequestError(f"no sampler has a field {field!r}; see `max list samplers`", param=field)
            if value is not None:
                grouped.setdefault(self.owners[field], {})[field] = value
        return grouped

    def with_defaults(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Grouped:
        """`values` over `defaults`, both by field."""
        return self.group({**defaults, **{k: v for k, v in values.items() if v is not None}})

    def usable(self, generation_config: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that generation_config.json gives, as each sampler reads it.

        What a sampler refuses is left out, with a warning: a request that does not name it must not fail.
        """
        config = {name: value for name, value in generation_config.items() if value is not None}
        usable: dict[str, Any] = {}
        for sampler, each in self.params.items():
            try:
                if values := _defaults_from(each.schema, config):
                    self._validate_switch(sampler, self.made(sampler, values), values)
                    usable |= values
            except (RequestError, TypeError, ValueError) as error:
                log.warning("generation_config.json: %s; sampler %s keeps its own default", error, sampler)
        return usable

    def resolve(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> ResolvedParams:
        """`given` over usable `defaults`: checked, allowed here, and free of text."""
        fields: Grouped = {}
        least, named = 0, ""
        for sampler, values in self.with_defaults(given, defaults).items():
            made = self.made(sampler, values)
            self._validate_switch(sampler, made, values)
            if self._tokenizer is not None and hasattr(made, "tokenized"):
                made = made.tokenized(self._tokenizer)
                values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
            fields[sampler] = dict(values)
            if (tokens := getattr(made, "min_stop_tokens", 0)) > least:
                least, named = int(tokens), next(iter(values))
        return ResolvedParams(fields=fields, min_stop_tokens=least, min_stop_field=named)

    def _validate_switch(self, sampler: str, made: Any, values: Mapping[str, Any]) -> None:
        flag = self.params[sampler].switch
        if flag and made != type(made)():
            field = next(iter(values))
            raise RequestError(
                f"{field} cannot be used: this server was started with --no-{flag[2:]}; leave it out, or start the "
                f"server with {flag}",
                param=field,
                code="unsupported_parameter",
            )


def _defaults_from(cls: type[Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a params class takes from generation_config.json: those of the same names unless it says so."""
    if hasattr(cls, "defaults_from"):
        return dict(cls.defaults_from(config))
    return {field.name: config[field.name] for field in dataclasses.fields(cls) if field.name in config}
