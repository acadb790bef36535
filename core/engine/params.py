"""Request fields of samplers and of the scheduler, as objects of their params classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.errors import RequestError

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.host import Host
    from maxserve.core.registry.entries import Entry


class ParamsReader:
    """The params classes of all registered samplers and of the chosen scheduler, by component."""

    def __init__(self, host: Host, *, settings: Settings | None = None, vocab_size: int | None = None) -> None:
        self.entries = _declaring(host, settings)
        self.classes: dict[str, type[Any]] = {
            name: host.load(entry, entry.component.params) for name, entry in self.entries.items()
        }
        self._vocab_size = vocab_size

    def read(self, grouped: Mapping[str, Mapping[str, Any]]) -> dict[type[Any], Any]:
        """The params objects for fields by component, without those that ask for nothing.

        What a class refuses is a RequestError naming the field.
        """
        made = [self.made(component, values) for component, values in grouped.items()]
        return {type(params): params for params in made if params != type(params)()}

    def made(self, component: str, values: Mapping[str, Any]) -> Any:
        """The params object of one component; RequestError naming the field that its class refuses."""
        cls = self.classes.get(component)
        if cls is None:
            raise RequestError(f"no sampler called {component!r} takes request fields; see `max list samplers`")
        try:
            made = cls(**values)
            if self._vocab_size is not None and hasattr(made, "check_vocabulary"):
                made.check_vocabulary(self._vocab_size)
        except (TypeError, ValueError) as error:
            named = [field for field in values if field in str(error)]
            raise RequestError(str(error), param=next(iter((*named, *values)), None)) from error
        return made


def _declaring(host: Host, settings: Settings | None) -> dict[str, Entry[Any]]:
    """The samplers that declare request fields, and the chosen scheduler where it does, by the name in requests."""
    found: dict[str, Entry[Any]] = {entry.name: entry for entry in host.samplers if entry.component.params is not None}
    if settings is not None:
        scheduler = host.schedulers.get(settings.scheduling.scheduler)
        if scheduler.component.params is not None:
            found[f"{scheduler.kind} {scheduler.name}"] = scheduler
    return found
