from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from maxserve.plugins.commands.locate import locate


def test_line_of_a_module_that_is_not_imported(plugin_folder: Any) -> None:
    file = plugin_folder.module("acme_heavy", "raise ImportError\n\nclass Model:\n    pass\n\nbuild = Model\n")
    assert locate("acme_heavy:Model") == f"{file}:3"
    assert locate("acme_heavy:Model.make") == f"{file}:3"
    assert locate("acme_heavy:build") == f"{file}:6"
    assert locate("acme_heavy:made_elsewhere") == str(file)
    assert "acme_heavy" not in sys.modules


def test_module_in_a_package_that_is_not_imported_stays_a_name(plugin_folder: Any) -> None:
    plugin_folder.module("acme_package.model", "class Model: ...")
    assert locate("acme_package.model:Model") == "acme_package.model:Model"
    assert "acme_package" not in sys.modules


def test_module_that_is_not_there() -> None:
    assert locate("no_such_module_anywhere:Model") == "no_such_module_anywhere:Model"
    assert locate("sys:exit") == "sys:exit"


def test_thing_itself() -> None:
    place = locate(test_thing_itself)
    assert place.startswith(f"{Path(__file__)}:")
