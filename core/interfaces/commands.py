"""Commands of `max`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from maxserve.core.interfaces.host import Host
    from maxserve.core.registry.options import PluginOptions


__all__ = ["Invocation", "LazyCommand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What commands work with: the plugins that were found, and the environment."""

    host: Host
    options: PluginOptions
    environ: Mapping[str, str]


class LazyCommand(click.Command):
    """Stands for a command in help; `make` gives the command itself. `strict`: it needs every plugin in order."""

    def __init__(self, name: str, make: Callable[[], click.Command], *, summary: str, strict: bool = False) -> None:
        super().__init__(name, help=summary)
        self.make = make
        self.strict = strict
