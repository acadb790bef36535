"""Options and what the model is for."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from maxserve.core.config import resolve
from maxserve.core.config.components import asked_task, check_for_task
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.sections import built_in_sections


def test_a_task_counts_when_it_was_chosen() -> None:
    assert asked_task(resolve({}, environ={})) is None
    assert asked_task(resolve({"task": "text_generation"}, environ={})) == "text_generation"
    assert asked_task(resolve({}, environ={"MAX_SERVE_TASK": "scoring"})) == "scoring"


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(("task", "what"), [("text_generation", "generates text"), ("scoring", "gives scores")])
def test_pooling_is_for_embeddings(task: str, what: str, value: bool) -> None:
    sections = built_in_sections()
    settings = resolve({"pool_embeddings": value}, environ={}, sections=sections)
    check_for_task(settings, "embeddings_generation", sections)
    with pytest.raises(SettingsError, match=f"--pool-embeddings is for embedding models, and this one {what}"):
        check_for_task(settings, task, sections)


def test_options_about_text_are_told_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    typed: dict[str, Any] = {"kv_cache_page_size": 32, "max_num_steps": 4, "max_batch_size": 8, "tool_parser": "json"}
    typed |= {"ce_delay_ms": 1, "enable_penalties": False, "fair__default_weight": 2}
    sections = built_in_sections()
    settings = resolve(typed, environ={}, sections=sections)
    with caplog.at_level(logging.WARNING):
        check_for_task(settings, "text_generation", sections)
        assert caplog.text == ""
        check_for_task(settings, "embeddings_generation", sections)
    assert "these options have no effect" in caplog.text
    for flag in ("--kv-cache-page-size", "--max-num-steps", "--tool-parser", "--ce-delay-ms", "--enable-penalties"):
        assert flag in caplog.text
    assert "--max-batch-size" not in caplog.text
