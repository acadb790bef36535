"""`--task-arg`: read for audio generation, and told to mean nothing elsewhere."""

from __future__ import annotations

import pytest

from maxserve.core.config import resolve
from maxserve.core.config.checks import validate_supported
from maxserve.core.interfaces.errors import SettingsError, UnsupportedError
from maxserve.plugins.audio.task_args import read_audio_arguments
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]


def test_arguments_are_read_by_their_types() -> None:
    given = ["audio-decoder=Mimi", "chunk_size=10, 20", "buffer=3", "run-model-test-mode=true"]
    read = read_audio_arguments([*given, "prepend_prompt_speech_tokens=once"])
    assert (read.audio_decoder, read.chunk_size, read.buffer) == ("Mimi", (10, 20), 3)
    assert (read.run_model_test_mode, read.prepend_prompt_speech_tokens) == (True, "once")
    assert read_audio_arguments(["audio_decoder=a=b"]).audio_decoder == "a=b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio_decoder", r"--task-arg audio_decoder: expected NAME=VALUE"),
        ("--buffer=3", r"give the name without dashes in front"),
        ("bufer=3", r"there is no argument 'bufer' \(did you mean buffer\?\); there are: audio_decoder, "),
        ("buffer=x", r"--task-arg buffer=x: expected a whole number"),
        ("chunk_size=1,x", r"expected a whole number, not 'x'"),
        ("block_causal=true", r"block_causal=true is not implemented"),
        ("prepend_prompt_speech_tokens_causal=true", r"tokens_causal=true is not implemented"),
        ("prepend_prompt_speech_tokens=always", r"expected one of never, once, rolling, not 'always'"),
        ("prometheus_metrics_mode=off", r"expected one of instrument_only, launch_server, launch_multiproc_server"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve({"task": "audio_generation", "task_arg": ["audio_decoder=Mimi", text]}, environ={}, sections=SHARED)


def test_audio_generation_needs_a_decoder() -> None:
    for given in ([], ["audio_decoder="], ["buffer=1"]):
        with pytest.raises(SettingsError, match="--task audio_generation needs --task-arg audio_decoder=NAME"):
            resolve({"task": "audio_generation", "task_arg": given}, environ={}, sections=SHARED)
    settings = resolve({"task": "audio_generation", "task_arg": ["audio_decoder=Mimi"]}, environ={}, sections=SHARED)
    with pytest.raises(UnsupportedError, match="--task"):
        validate_supported(settings)


def test_other_tasks_do_not_read_them_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = resolve({"task_arg": ["--nonsense"]}, environ={}, sections=SHARED)
    assert settings.plugins.sections["audio"] == {"task_arg": ["--nonsense"]}
    assert "--task-arg --nonsense means nothing to --task text_generation" in caplog.text
    validate_supported(settings)
