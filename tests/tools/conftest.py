"""The modules of `tools/demo_model`, which are scripts beside each other and no package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "demo_model"
MODULES = (
    "corpus",
    "phrasing",
    "conversation",
    "tokenizer",
    "dataset",
    "model",
    "train",
    "evaluate",
    "eagle3",
    "draft",
    "acceptance",
    "pirate",
    "companions",
)


@pytest.fixture(scope="session")
def tools() -> Iterator[dict[str, ModuleType]]:
    """Every module of the demo model's training, by name; the import path is as it was afterwards."""
    sys.path.insert(0, str(TOOLS))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(TOOLS))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def corpus(tools: dict[str, ModuleType]) -> Any:
    return tools["corpus"].load()


@pytest.fixture(scope="session")
def tokenizer(tools: dict[str, ModuleType], corpus: Any) -> Any:
    """The tokenizer of the training, its merges counted on fewer texts."""
    whole, tools["tokenizer"].SAMPLE = tools["tokenizer"].SAMPLE, 1500
    try:
        return tools["tokenizer"].train_tokenizer(corpus, 0)
    finally:
        tools["tokenizer"].SAMPLE = whole
