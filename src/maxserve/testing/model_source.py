"""Checks of model sources.

class TestShelf(ModelSourceChecks):
    plugin = shelf_plugin  # the module with the hook

    @pytest.fixture(autouse=True)
    def known(self, tmp_path): ...  # makes what `refs` lead to
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
from maxserve.core.loading.progress import NullProgress

OTHERS = ("", ".", "/", "./some/folder", "other/some-model", "C:\\models\\one", "https://127.0.0.1:9/x", "ünï")


class ModelSourceChecks:
    """Subclass it and give the `plugin`, a module with `maxserve_model_source`.

    `refs` are references it knows, whose folders are there when the tests run; `others` are some it must leave alone.
    `query` changes what operators want of a model: a revision, Python files. Weight files end in one of `suffixes`.
    """

    plugin: ClassVar[ModuleType]
    refs: ClassVar[Sequence[str]] = ()
    others: ClassVar[Sequence[str]] = OTHERS
    query: ClassVar[dict[str, Any]] = {}
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def found(self, ref: str) -> ModelSource | None:
        """What the hook says of a reference."""
        hook = self.plugin.maxserve_model_source
        given = {"ref": ref, "query": ModelQuery(progress=NullProgress(), **self.query)}
        answer: ModelSource | None = hook(**{name: given[name] for name in inspect.signature(hook).parameters})
        return answer

    def test_known_references_lead_to_a_model(self) -> None:
        assert self.refs, f"{type(self).__name__} has no refs"
        for ref in self.refs:
            found = self.found(ref)
            assert isinstance(found, ModelSource), f"{ref!r}: {found!r}"
            assert bool(found.path) != (found.location is not None), f"{ref!r}: a source has a path or a location"
            folder = Path(found.path) if found.location is None else found.location.folder()
            assert (folder / "config.json").is_file(), f"{ref!r}: {folder} has no config.json"
            if found.location is not None:
                weights = [name for name in found.location.names() if name.endswith(self.suffixes)]
                assert weights, f"{ref!r}: there are no weights"
                assert all(Path(path).is_file() for path in found.location.fetch(weights[:1])), f"{ref!r}: not fetched"

    def test_other_references_are_left_to_others(self) -> None:
        for ref in self.others:
            assert self.found(ref) is None, f"{ref!r} is not this plugin's"

    def test_asking_twice_gives_the_same(self) -> None:
        for ref in self.refs:
            assert str(self.found(ref)) == str(self.found(ref))
