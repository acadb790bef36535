"""Which request field belongs to which sampler, and what the model's own generation_config says of it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.core.errors import RequestError

if TYPE_CHECKING:
    from maxserve.core.host import Host

log = logging.getLogger("maxserve.engine")

Grouped = dict[str, dict[str, Any]]


class SamplerFields:
    """The params classes of all registered samplers, by sampler and by field."""

    def __init__(self, host: Host) -> None:
        self.classes: dict[str, type[Any]] = {
            entry.component.name: host.load(entry, entry.component.params)
            for entry in host.samplers
            if entry.component.params is not None
        }
        self.owners: dict[str, str] = {
            field.name: sampler for sampler, cls in self.classes.items() for field in dataclasses.fields(cls)
        }

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
        """`values` over what generation_config.json gives; its `do_sample: false` means temperature 0."""
        model = {k: v for k, v in defaults.items() if k in self.owners}
        if defaults.get("do_sample") is False and "temperature" in self.owners:
            model["temperature"] = 0.0
        given = {k: v for k, v in values.items() if v is not None}
        return self.group({**model, **given})

    def usable(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The model's defaults, without those its samplers refuse: a request that left them out must not fail."""
        usable = {name: value for name, value in defaults.items() if value is not None}
        for sampler, values in self.with_defaults({}, usable).items():
            try:
                self.read({sampler: values})
            except RequestError as error:
                log.warning("generation_config.json: %s; sampler %s keeps its own default", error.message, sampler)
                for name in values:
                    usable.pop(name, None)
        return usable

    def read(self, grouped: Mapping[str, Mapping[str, Any]]) -> dict[type[Any], Any]:
        """The samplers' params objects; what a class refuses is a RequestError naming the field."""
        params: dict[type[Any], Any] = {}
        for sampler, values in grouped.items():
            cls = self.classes.get(sampler)
            if cls is None:
                raise RequestError(f"no sampler called {sampler!r} takes request fields; see `max list samplers`")
            try:
                params[cls] = cls(**values)
            except (TypeError, ValueError) as error:
                raise RequestError(str(error), param=next(iter(values), None)) from error
        return params
