"""Adapters of the demo model that ship with it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from maxserve.interfaces.adapter_source import AdapterSourceContext
from maxserve.plugins.demo import ADAPTERS, DEMO, folder_of
from maxserve.plugins.lora.options import LoRAOptions


class DemoAdapters:
    """A FindsAdapters and ListsAdapters: requests find them where the demo model is served, the operator anywhere.

    An operator may serve a copy of the demo, or one that was written in another format; whether an adapter fits a
    model is for those to say who read it.
    """

    def __init__(self, context: AdapterSourceContext) -> None:
        enabled = context.config(LoRAOptions).enable_lora
        served = Path(context.path) == Path(folder_of(DEMO))
        self._names = tuple(ADAPTERS) if enabled and (served or context.of_operator) else ()

    def names(self) -> Collection[str]:
        return self._names

    def find(self, name: str) -> str | None:
        return folder_of(name) if name in self._names else None
