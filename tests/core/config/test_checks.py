from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.config import resolve
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve

CAST = "allow_safetensors_weights_fp32_bf6_bidirectional_cast"
DRAFT = {"draft_model_path": "d", "speculative_method": "standalone"}
REPLICAS = {"data_parallel_degree": 2, "devices": "gpu:0,1"}


def test_a_batch_larger_than_its_tokens_is_lowered_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        settings = resolve({"max_batch_size": 100, "max_batch_input_tokens": 64}, environ={}, sections=SHARED)
    assert settings.scheduling.max_batch_size == 64
    assert "--max-batch-size 100 is more than --max-batch-input-tokens and is lowered to 64" in caplog.text
    assert settings.scheduling.max_batch_input_tokens == 64


def test_failures_are_at_most_every_step(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve({"sim_failure": 250}, environ={}, sections=SHARED).server.sim_failure == 100
    assert "lowered to 100" in caplog.text


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            {"max_batch_total_tokens": 100, "max_length": 200},
            "--max-batch-total-tokens 100 is less than --max-length 200",
        ),
        ({CAST: True}, "--allow-safetensors-.*-cast: cast to what.* --quantization-encoding"),
        ({f"draft_{CAST}": True, **DRAFT}, "Give --draft-quantization-encoding"),
        ({"max_num_steps": 0}, "--max-num-steps: expected at least 1"),
        (
            {"max_num_steps": 2, "enable_overlap_scheduler": True},
            "--enable-overlap-scheduler .*--max-num-steps 2 .*drop one of them",
        ),
        ({"chat_template": "nowhere.jinja"}, "--chat-template nowhere.jinja: there is no such file"),
        ({"weight_path": ("w.safetensors",)}, "--weight-path w.safetensors: .*--model-path"),
        ({"data_parallel_degree": 2}, "--data-parallel-degree 2: expected 1 or the number of devices.*; it is 1"),
        ({"data_parallel_degree": 2, "devices": "gpu:0,1,2"}, "it is 3 "),
        (
            {"enable_kvcache_swapping_to_host": True, "enable_prefix_caching": False},
            "--enable-kvcache-swapping-to-host .*--no-enable-prefix-caching",
        ),
        ({"zmq_endpoint_base": "http://x"}, "--zmq-endpoint-base http://x: expected ipc://"),
    ],
)
def test_what_contradicts_is_refused_in_one_line(typed: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        resolve(typed, environ={}, sections=SHARED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        {"max_batch_total_tokens": 200, "max_length": 200},
        {CAST: True, "quantization_encoding": "float32"},
        {"draft_devices": "cpu", **DRAFT},
        {"speculative_method": "ngram"},
        REPLICAS,
        {"data_parallel_degree": 2, "devices": "cpu:0,1,2,3"},
        {**REPLICAS, "draft_data_parallel_degree": 2, "draft_devices": REPLICAS["devices"], **DRAFT},
        {"max_num_steps": -1},
        {"max_num_steps": -1, "enable_overlap_scheduler": True},
        {"max_num_steps": 1, "enable_overlap_scheduler": True},
        {"max_num_steps": 10},
        {"enable_kvcache_swapping_to_host": True},
    ],
)
def test_what_goes_together_is_taken(typed: dict[str, Any]) -> None:
    assert len(resolve(typed, environ={}, sections=SHARED).chosen) == len(typed)


def test_draft_options_need_a_draft_model() -> None:
    typed = {"draft_devices": "cpu", "draft_rope_type": "yarn"}
    with pytest.raises(
        SettingsError,
        match=r"^--draft-devices, --draft-rope-type: .*give --draft-model-path and a --speculative-method that uses it",
    ):
        resolve(typed, environ={}, sections=SHARED)


def test_a_chat_template_that_is_there(here: Path) -> None:
    (here / "t.jinja").write_text("{{ messages }}")
    settings = resolve({"chat_template": "t.jinja"}, environ={}, sections=SHARED)
    assert settings.plugins.sections["conversations"]["chat_template"] == "t.jinja"


def test_weights_of_a_repository_name_the_model(here: Path) -> None:
    named = resolve({"weight_path": ["org/repo/a/w.safetensors"]}, environ={}, sections=SHARED)
    assert named.model.model_path == "org/repo"
    given = resolve({"weight_path": ["org/repo/w.safetensors"], "model": "other/one"}, environ={}, sections=SHARED)
    assert given.model.model_path == "other/one"
    (here / "org/repo").mkdir(parents=True)
    (here / "org/repo/w.safetensors").touch()
    alone = resolve({"weight_path": ["org/repo/w.safetensors"]}, environ={}, sections=SHARED)
    assert alone.model.model_path == "org/repo/w.safetensors", "a file that is there may hold the config, too"
    with pytest.raises(SettingsError, match="give --model-path"):
        resolve({"weight_path": ["w.safetensors"]}, environ={}, sections=SHARED)


def test_a_step_timeout_means_something_where_ranks_share_a_model(caplog: pytest.LogCaptureFixture) -> None:
    for typed, told in (
        ({"devices": "cpu:0,1"}, False),
        ({"devices": "cpu:0,1", "data_parallel_degree": 2}, True),
        ({"devices": "cpu:0,1,2,3", "data_parallel_degree": 2}, False),
        ({}, True),
    ):
        caplog.clear()
        resolve({"step_timeout": 5.0, **typed}, environ={})
        assert ("--step-timeout means nothing" in caplog.text) is told, typed
