from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maxserve.core.config import resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.config.document import FLAT, NESTED, SECTIONED, built_in_sections, document
from maxserve.core.config.unsupported import UNSUPPORTED

PAGE = Path(__file__).parents[3] / "docs" / "options.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "run python -m maxserve.core.config.document > docs/options.md"
    )


def test_the_page_names_every_option_and_what_is_missing() -> None:
    page = document()
    for option in catalog(built_in_sections()):
        assert f"`{option.flag}`" in page
    assert "`--fair.weights`" in page
    assert page.count("**Not supported yet:**") == len(UNSUPPORTED)


@pytest.mark.parametrize("text", [FLAT, NESTED])
def test_the_examples_mean_what_they_say(text: str, yaml_file: Callable[..., str]) -> None:
    assert text in document()
    settings = resolve({"config_file": yaml_file(text)}, environ={})
    assert (settings.model.max_length, settings.scheduling.max_batch_size) == (4096, 32)
    assert settings.kv_cache.enable_prefix_caching is False


def test_the_example_with_sections(yaml_file: Callable[..., str]) -> None:
    settings = resolve({"config_file": yaml_file(SECTIONED), "section_name": "large"}, environ={})
    assert settings.scheduling.max_batch_size == 128
