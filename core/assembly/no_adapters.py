"""The pool of a model without adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from maxserve.core.interfaces.errors import RequestError

if TYPE_CHECKING:
    from maxserve.core.interfaces.adapter import AdapterSlots
    from maxserve.core.interfaces.request import AdapterChange


class NoAdapters:
    """What of AdapterSlots an engine asks that has none."""

    slots = 0
    changing = reports = False
    wake: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self.done: list[str] = []
        self.rejected: list[tuple[str, RequestError]] = []

    def named(self, name: str) -> None:
        if name:
            message = f"there is no adapter {name!r}; there are: none"
            raise RequestError(message, param="model", code="model_not_found", status=404)

    def use(self) -> tuple[()]:
        return ()

    def change(self, change: AdapterChange) -> NoReturn:
        raise RequestError("this server serves no adapters; start it with --enable-lora")

    def close(self) -> None:
        """Nothing runs."""


def no_adapters() -> AdapterSlots:
    """The pool of an engine that serves no adapters."""
    pool: Any = NoAdapters()
    return pool  # type: ignore[no-any-return]
