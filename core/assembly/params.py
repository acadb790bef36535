"""Request fields of samplers and of the scheduler, as objects of their params classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maxserve.core.config.catalog import catalog
from maxserve.core.interfaces.errors import PluginError, RequestError
from maxserve.core.interfaces.sampler import RequestParams

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


def request_params(host: Host, settings: Settings | None = None, *, switches: bool = True) -> tuple[RequestParams, ...]:
    """What requests may say to each sampler, and to the scheduler of `settings` where it declares fields.

    Without `switches`, what is switched off is not looked up: the server has refused it.
    """
    declaring: dict[str, Entry[Any]] = {e.name: e for e in host.samplers if e.component.params is not None}
    if settings is not None:
        scheduler = host.schedulers.get(settings.scheduling.scheduler)
        if scheduler.component.params is not None:
            declaring[f"{scheduler.kind} {scheduler.name}"] = scheduler
    off = {} if settings is None or not switches else _switched_off(host, settings)
    return tuple(
        RequestParams(
            component=name,
            schema=host.load(entry, entry.component.params),
            owner=str(entry),
            plugin=entry.plugin,
            summary=entry.component.summary,
            switch=off.get(name, ""),
        )
        for name, entry in declaring.items()
    )


def _switched_off(host: Host, settings: Settings) -> dict[str, str]:
    """The samplers whose switch is off, each with the flag that would let requests use it."""
    options = catalog(host.plugin_sections()).by_path()
    off = {}
    for entry in host.samplers:
        path = entry.component.switch
        if not path:
            continue
        if path not in options or not options[path].shape.switch:
            raise PluginError(f"{entry}: its switch {path!r} is no option that can be on or off, as section.field")
        if not options[path].value(settings):
            off[entry.component.name] = options[path].flag
    return off


class ParamsReader:
    """The params objects of requests, by component."""

    def __init__(self, params: Iterable[RequestParams], *, vocab_size: int | None = None) -> None:
        self.params: Mapping[str, RequestParams] = {each.component: each for each in params}
        self._vocab_size = vocab_size

    def read(self, grouped: Mapping[str, Mapping[str, Any]]) -> dict[type[Any], Any]:
        """The params objects for fields by component, without those that ask for nothing.

        What a class refuses is a RequestError naming the field.
        """
        made = [self.made(component, values) for component, values in grouped.items()]
        return {type(params): params for params in made if params != type(params)()}

    def made(self, component: str, values: Mapping[str, Any]) -> Any:
        """The params object of one component; RequestError naming the field that its class refuses."""
        declared = self.params.get(component)
        if declared is None:
            raise RequestError(f"no sampler called {component!r} takes request fields; see `max list samplers`")
        try:
            made = declared.schema(**values)
            if self._vocab_size is not None and hasattr(made, "check_vocabulary"):
                made.check_vocabulary(self._vocab_size)
        except (TypeError, ValueError) as error:
            named = [field for field in values if field in str(error)]
            raise RequestError(str(error), param=next(iter((*named, *values)), None)) from error
        return made
