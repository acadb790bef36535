"""What was typed for a command, and the settings that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.config.checks import validate_supported
from maxserve.core.config.components import validate_used

if TYPE_CHECKING:
    from maxserve.core.registry.protocol import Host, Invocation


def typed(ctx: click.Context) -> dict[str, Any]:
    """What was typed, by Python name; neither defaults nor what came from elsewhere."""
    return {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def settle(invocation: Invocation, given: dict[str, Any]) -> Settings:
    """The settings of a command; raises when they ask for something that is not there, before a model is read."""
    from maxserve.core.loading.companions import with_companions

    sections = invocation.host.plugin_sections()
    complete = partial(with_companions, host=invocation.host)
    settings = resolve(given, environ=invocation.environ, sections=sections, complete=complete)
    validate_supported(settings, sections)
    validate_used(settings, invocation.host.schedulers, invocation.host.speculators, sections)
    _look_up(settings, invocation.host, sections)
    return settings


def _look_up(settings: Settings, host: Host, sections: Sequence[PluginSection]) -> None:
    """Raises PluginError for a component that was named and is not there."""
    for option in catalog(sections):
        marker, name = option.marker, option.value(settings)
        if marker.registry and marker.checked and name is not None and name not in marker.no_names:
            getattr(host, marker.registry).get(name)
