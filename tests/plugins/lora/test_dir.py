"""The folder of --lora-dir as a source of adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxserve.plugins.lora.options import LoRAOptions
from maxserve.testing import AdapterSourceChecks


class TestLoRADir(AdapterSourceChecks):
    adapter_source = "lora-dir"

    def settings(self, folder: Path) -> Mapping[type[Any], Any]:
        return {LoRAOptions: LoRAOptions(enable_lora=True, lora_dir=str(folder / "adapters"))}

    def adapters(self, folder: Path) -> Mapping[str, str]:
        names = ("sql", "team/law")
        for name in names:
            (folder / "adapters" / name).mkdir(parents=True, exist_ok=True)
        (folder / "other").mkdir(exist_ok=True)
        return {name: os.path.realpath(folder / "adapters" / name) for name in names}


class TestWithoutOne(TestLoRADir):
    """It has nothing then, not even what lies in the folder that the server runs in."""

    def settings(self, folder: Path) -> Mapping[type[Any], Any]:
        return {LoRAOptions: LoRAOptions(enable_lora=True)}

    def test_adapters_are_found_where_they_are(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        assert [source.find(name) for name in (*self.adapters(tmp_path), "tests", "src")] == [None] * 4

    def test_threads_may_ask_at_once(self, tmp_path: Path) -> None:
        assert self.source(tmp_path).find("src") is None
