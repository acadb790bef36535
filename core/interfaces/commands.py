"""Commands of `max`."""

from __future__ import annotations

from collections.abc import Callable

import click

__all__ = ["LazyCommand"]


class LazyCommand(click.Command):
    """Stands for a command in help; `make` gives the command itself. `strict`: it needs every plugin in order."""

    def __init__(self, name: str, make: Callable[[], click.Command], *, summary: str, strict: bool = False) -> None:
        super().__init__(name, help=summary)
        self.make = make
        self.strict = strict
