"""Checks of adapter sources.

class TestAcme(AdapterSourceChecks):
    adapter_source = "acme"

    def adapters(self, folder): ...  # writes what is to be found, and says where
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from maxserve.core.interfaces.adapter_source import AdapterSource, AdapterSourceContext, FindsAdapters, ListsAdapters
from maxserve.testing.resolve import load, resolve

__all__ = ["AdapterSourceChecks"]

# What no source has: names that lead elsewhere, and such as are given by mistake.
OTHERS = ("", ".", "..", "../other", "/", "/etc", "no-such-adapter", "no/such/adapter", "a" * 200, "a\0b", "ünï")


class AdapterSourceChecks:
    """Subclass it and name a registered `adapter_source`, or give the `component` itself.

    `adapters` must be written: where those are that it finds, by name; files may be written to `folder`. `sections` are
    the plugin's settings, by schema; where they depend on the folder, `settings` may be written instead. `path` is the
    folder of the model that is served, where that matters. `others` are names that it must leave alone.
    """

    adapter_source: ClassVar[str] = ""
    component: ClassVar[AdapterSource | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    path: ClassVar[str] = ""
    others: ClassVar[Sequence[str]] = OTHERS

    def adapters(self, folder: Path) -> Mapping[str, str]:
        """Where each is found, by its name."""
        raise NotImplementedError(f"{type(self).__name__}: say which adapters are found")

    def settings(self, folder: Path) -> Mapping[type[Any], Any]:
        """The plugin's settings, by schema."""
        return self.sections

    def source(self, folder: Path) -> FindsAdapters:
        """A fresh source."""
        build = load(resolve(AdapterSource, self.adapter_source, self.component).build)
        made: FindsAdapters = build(AdapterSourceContext(sections=self.settings(folder), path=self.path))
        return made

    def test_adapters_are_found_where_they_are(self, tmp_path: Path) -> None:
        wanted = self.adapters(tmp_path)
        assert wanted, "there is no adapter to find"
        source = self.source(tmp_path)
        assert {name: source.find(name) for name in wanted} == dict(wanted)

    def test_what_is_listed_is_found(self, tmp_path: Path) -> None:
        wanted = self.adapters(tmp_path)
        source = self.source(tmp_path)
        if isinstance(source, ListsAdapters):
            assert {*source.names()} == {*wanted}, "what is in /v1/models is what can be had"

    def test_other_names_are_left_to_others(self, tmp_path: Path) -> None:
        self.adapters(tmp_path)
        source = self.source(tmp_path)
        for name in self.others:
            assert source.find(name) is None, f"{name!r} is none of its adapters"

    def test_threads_may_ask_at_once(self, tmp_path: Path) -> None:
        wanted = self.adapters(tmp_path)
        source = self.source(tmp_path)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(source.find, [*wanted] * 8))
        assert found == [*wanted.values()] * 8
