"""Options whose values have a spelling of their own: names of a set, devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator

DEVICES = re.compile(r"gpu(?::(\d+(?:,\d+)*))?")


def fold(name: str) -> str:
    """`name` without case, dashes and underscores: PrefillOnly and prefill_only are one."""
    return re.sub(r"[-_\s]", "", name).lower()


@dataclass(frozen=True, slots=True)
class Choice:
    """One name of a set, in any case, with or without `owner.` in front.

    An open set also takes names that are not listed; they are judged when they are looked up in a registry.
    """

    owner: str
    names: tuple[str, ...]
    open: bool = False

    @property
    def metavar(self) -> str:
        return "[" + "|".join((*self.names, "…") if self.open else self.names) + "]"

    def read(self, value: object) -> str:
        if isinstance(value, bool):  # YAML reads a bare on or off as a boolean
            value = "on" if value else "off"
        if isinstance(value, str):
            name = self._without_owner(value.strip())
            known = {fold(each): each for each in self.names}
            if fold(name) in known:
                return known[fold(name)]
            if self.open and name:
                return name
        raise ValueError(f"expected one of {', '.join(self.names)}, not {value!r}")

    def _without_owner(self, text: str) -> str:
        owner, dot, name = text.partition(".")
        return name if dot and owner.lower() == self.owner.lower() else text


@dataclass(frozen=True, slots=True)
class Devices:
    """Where the model runs, in one spelling: default, cpu, or gpu:0 and gpu:0,1."""

    metavar: str = "cpu|gpu|gpu:ID[,ID…]"

    def read(self, value: object) -> str:
        text = re.sub(r"\s", "", value).lower() if isinstance(value, str) else ""
        if text in ("cpu", "default"):
            return text
        found = DEVICES.fullmatch(text)
        if not found:
            raise ValueError(f"expected cpu, gpu, or gpu: and numbers such as gpu:0 or gpu:0,1, not {value!r}")
        numbers = [int(number) for number in (found[1] or "0").split(",")]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{value!r} names one GPU twice; give each once")
        return "gpu:" + ",".join(map(str, numbers))


def gpu_numbers(devices: str) -> tuple[int, ...]:
    """The GPUs that a `devices` value names; none for cpu and default."""
    _, _, numbers = devices.partition(":")
    return tuple(int(number) for number in numbers.split(",")) if numbers else ()


ENCODINGS = Choice(
    "SupportedEncoding",
    ("float32", "bfloat16", "q4_k", "q4_0", "q6_k", "float8_e4m3fn", "float4_e2m1fnx2", "gptq"),
)
ROPE_TYPES = Choice("RopeType", ("none", "normal", "neox", "longrope", "yarn"))
TASKS = Choice(
    "PipelineTask",
    ("text_generation", "embeddings_generation", "audio_generation", "speech_token_generation", "scoring"),
)
CACHE_STRATEGIES = Choice("KVCacheStrategy", ("model_default", "paged"), open=True)
CACHE_FORMATS = Choice("KVCacheFormat", ("float32", "bfloat16", "float8_e4m3fn"))
DEVICE_LIST = Devices()

Encoding = Annotated[str, ENCODINGS, BeforeValidator(ENCODINGS.read)]
RopeType = Annotated[str, ROPE_TYPES, BeforeValidator(ROPE_TYPES.read)]
Task = Annotated[str, TASKS, BeforeValidator(TASKS.read)]
CacheStrategyName = Annotated[str, CACHE_STRATEGIES, BeforeValidator(CACHE_STRATEGIES.read)]
CacheFormat = Annotated[str, CACHE_FORMATS, BeforeValidator(CACHE_FORMATS.read)]
DeviceList = Annotated[str, DEVICE_LIST, BeforeValidator(DEVICE_LIST.read)]
