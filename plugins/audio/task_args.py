"""Arguments of tasks, which only audio generation has: the values of `--task-arg`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.config import Settings, near, read_bool, read_int
from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError

log = logging.getLogger("maxserve.settings")


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task is given beside its name."""

    task_arg: Annotated[
        tuple[str, ...],
        Option(metavar="NAME=VALUE"),
        Field(description="Argument of the task audio_generation, such as audio_decoder=NAME; others take none."),
    ] = ()


def check(settings: Settings, options: TaskOptions) -> None:
    """SettingsError for arguments that audio generation does not take; a warning where the task is another one."""
    task = settings.model.task
    if task == "audio_generation":
        read_audio_arguments(options.task_arg)
    elif options.task_arg:
        log.warning("--task-arg %s means nothing to --task %s, which takes no arguments", options.task_arg[0], task)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioArguments:
    """What audio generation is given. `audio_decoder` is the name of an architecture."""

    audio_decoder: str
    audio_decoder_weights: str = ""
    chunk_size: tuple[int, ...] | None = None
    buffer: int = 0
    block_causal: bool = False
    prepend_prompt_speech_tokens: str = "never"
    prepend_prompt_speech_tokens_causal: bool = False
    run_model_test_mode: bool = False
    prometheus_metrics_mode: str = "instrument_only"


def read_audio_arguments(given: Sequence[str]) -> AudioArguments:
    """The arguments of audio generation in texts name=value; SettingsError says which one is wrong and how."""
    values: dict[str, object] = {}
    for text in given:
        name, value = _split(text)
        try:
            values[name] = _READERS[name](value)
        except ValueError as error:
            raise SettingsError(f"--task-arg {text}: {error}") from None
    if not values.get("audio_decoder"):
        raise SettingsError(
            "--task audio_generation needs --task-arg audio_decoder=NAME, the architecture that makes sound of tokens"
        )
    for name in ("block_causal", "prepend_prompt_speech_tokens_causal"):
        if values.get(name):
            raise SettingsError(f"--task-arg {name}=true is not implemented; leave it out")
    return AudioArguments(**values)  # type: ignore[arg-type]


def _split(text: str) -> tuple[str, str]:
    if text.startswith("--"):
        raise SettingsError(f"--task-arg {text}: give the name without dashes in front, as in audio_decoder=NAME")
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--task-arg {text}: expected NAME=VALUE")
    name = name.replace("-", "_")
    if name not in _READERS:
        raise SettingsError(
            f"--task-arg {text}: there is no argument {name!r}{near(name, _READERS)}; there are: {', '.join(_READERS)}"
        )
    return name, value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(read_int(part.strip()) for part in text.split(","))


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, not {text!r}")
        return text

    return read


_READERS: Mapping[str, Callable[[str], object]] = {
    "audio_decoder": str,
    "audio_decoder_weights": str,
    "chunk_size": _numbers,
    "buffer": read_int,
    "block_causal": read_bool,
    "prepend_prompt_speech_tokens": _one_of("never", "once", "rolling"),
    "prepend_prompt_speech_tokens_causal": read_bool,
    "run_model_test_mode": read_bool,
    "prometheus_metrics_mode": _one_of("instrument_only", "launch_server", "launch_multiproc_server"),
}
