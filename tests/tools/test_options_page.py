"""The page docs/options.md is current, and its examples mean what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.config import Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.testing.sections import built_in_sections

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> Any:
    """tools/options_page.py."""
    spec = importlib.util.spec_from_file_location("options_page", ROOT / "tools" / "options_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings_of(tmp_path: Path) -> Any:
    """What a file of that text sets."""

    def read(text: str, **typed: str) -> Settings:
        (tmp_path / "settings.yaml").write_text(text, encoding="utf-8")
        return resolve({"config_file": str(tmp_path / "settings.yaml"), **typed}, environ={})

    return read


def test_the_page_is_current(page: Any) -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert text == page.document(), "run python tools/options_page.py > docs/options.md"


def test_the_page_names_every_option_and_what_is_missing(page: Any) -> None:
    text = page.document()
    for option in catalog(built_in_sections()):
        assert f"`{option.flag}`" in text
    assert "`--fair.weights`" in text
    assert text.count("**Not supported yet:**") == sum(
        bool(option.unsupported) for option in catalog(built_in_sections())
    )


@pytest.mark.parametrize("example", ["FLAT", "NESTED"])
def test_the_examples_mean_what_they_say(example: str, page: Any, settings_of: Any) -> None:
    text = getattr(page, example)
    assert text in page.document()
    settings = settings_of(text)
    assert (settings.model.max_length, settings.scheduling.max_batch_size) == (4096, 32)
    assert settings.kv_cache.enable_prefix_caching is False


def test_the_example_with_sections(page: Any, settings_of: Any) -> None:
    assert settings_of(page.SECTIONED, section_name="large").scheduling.max_batch_size == 128
