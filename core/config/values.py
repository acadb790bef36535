"""Kinds of option values, and how text, YAML and Python values become them."""

from __future__ import annotations

import ipaddress
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

import msgspec
from pydantic import BeforeValidator

DEVICES = re.compile(r"(cpu|gpu)(?::(\d+(?:,\d+)*))?")


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


class Devices(msgspec.Struct, frozen=True):
    """Where the model runs, in one spelling: default, cpu, cpu:0,1, or gpu:0 and gpu:0,1."""

    metavar: str = "cpu|cpu:0,1[,…]|gpu|gpu:ID[,ID…]"

    def read(self, value: object) -> str:
        text = re.sub(r"\s", "", value).lower() if isinstance(value, str) else ""
        if text in ("cpu", "default"):
            return text
        found = DEVICES.fullmatch(text)
        if not found:
            raise ValueError(f"expected cpu, gpu, or gpu: and numbers such as gpu:0 or gpu:0,1, not {value!r}")
        numbers = [int(number) for number in (found[2] or "0").split(",")]
        if found[1] == "cpu":  # with numbers: cpu alone is above
            return _cpus(numbers, value)
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{value!r} names one GPU twice; give each once")
        return "gpu:" + ",".join(map(str, numbers))


def _cpus(numbers: list[int], value: object) -> str:
    """Processes on the CPUs of this machine, which are no devices by themselves, and so are counted only."""
    if numbers != list(range(max(2, len(numbers)))):
        raise ValueError(f"expected cpu, gpu, or cpu:0,1 for two processes on CPUs, counted from 0, not {value!r}")
    return "cpu:" + ",".join(map(str, numbers))


def gpu_numbers(devices: str) -> tuple[int, ...]:
    """The GPUs that a `devices` value names; none for cpu and default."""
    kind, _, numbers = devices.partition(":")
    return tuple(int(number) for number in numbers.split(",")) if numbers and kind == "gpu" else ()


def cpu_ranks(devices: str) -> int:
    """The processes on CPUs that a `devices` value names; 1 for all others."""
    return devices.count(",") + 1 if devices.startswith("cpu") else 1


def is_loopback(host: str) -> bool:
    """Whether this machine alone reaches a server that listens at `host`, a name or an address without brackets."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


ENCODINGS = Choice(
    "SupportedEncoding",
    (
        *("float32", "bfloat16", "q4_k", "q4_0", "q6_k", "float8_e4m3fn", "float4_e2m1fnx2", "gptq"),
        *("q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q5_k", "iq4_nl", "iq4_xs", "mxfp4", "nvfp4"),
        *("awq", "nf4", "fp4", "int4", "int8"),
    ),
)
ROPE_TYPES = Choice("RopeType", ("none", "normal", "neox", "longrope", "yarn"))
TASKS = Choice(
    "PipelineTask",
    ("text_generation", "embeddings_generation", "audio_generation", "speech_token_generation", "scoring"),
)
CACHE_STRATEGIES = Choice("KVCacheStrategy", ("model_default", "paged"), open=True)
METHODS = Choice(
    "SpeculativeMethod", ("standalone", "eagle", "mtp", "ngram", "suffix", "cascade", "synthetic"), open=True
)
CACHE_FORMATS = Choice("KVCacheFormat", ("float32", "bfloat16", "float8_e4m3fn", "int8"), open=True)
DEVICE_LIST = Devices()

Encoding = Annotated[str, ENCODINGS, BeforeValidator(ENCODINGS.read)]
RopeType = Annotated[str, ROPE_TYPES, BeforeValidator(ROPE_TYPES.read)]
Task = Annotated[str, TASKS, BeforeValidator(TASKS.read)]
CacheStrategyName = Annotated[str, CACHE_STRATEGIES, BeforeValidator(CACHE_STRATEGIES.read)]
SpeculativeMethod = Annotated[str, METHODS, BeforeValidator(METHODS.read)]
CacheFormat = Annotated[str, CACHE_FORMATS, BeforeValidator(CACHE_FORMATS.read)]
DeviceList = Annotated[str, DEVICE_LIST, BeforeValidator(DEVICE_LIST.read)]


TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0"})


@runtime_checkable
class Reader(Protocol):
    """Reads values of one option in its own way; ValueError says what was expected."""

    @property
    def metavar(self) -> str: ...

    def read(self, value: object) -> object: ...


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What one option takes: a scalar, or several of it (`many`); `optional` when None is a value."""

    scalar: type
    many: bool = False
    optional: bool = False
    reader: Reader | None = None

    @property
    def switch(self) -> bool:
        """True when the option is spelled --x/--no-x and takes no value."""
        return self.scalar is bool and self.reader is None and not self.many

    @property
    def metavar(self) -> str:
        if self.reader is not None:
            return self.reader.metavar
        return METAVARS[self.scalar]

    def read(self, value: object) -> object:
        """`value` as this option's type; ValueError says what was expected instead."""
        if value is None:
            if self.optional:
                return None
            raise ValueError("no value is given; write one or leave the key out")
        return tuple(self.read_one(item) for item in items(value)) if self.many else self.read_one(value)

    def read_one(self, value: object) -> object:
        """One value of a repeatable option, or the value of another."""
        if self.reader is not None:
            return self.reader.read(value)
        return READERS[self.scalar](value)


def items(value: object) -> list[object]:
    """The elements of a list, of a JSON list in text, or of text with commas."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        return [value]
    if not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return list(json.loads(value))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON list or values with commas between, not {value!r} ({error.msg})") from None


def read_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in TRUE | FALSE:
        return text in TRUE
    raise ValueError(f"expected true or false, not {value!r}")


def read_int(value: object) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"expected a whole number, not {value!r}") from None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number, not {value!r}")


def read_float(value: object) -> float:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"expected a number, not {value!r}")


def read_str(value: object) -> str:
    if isinstance(value, (str, Path)):
        return str(value)
    raise ValueError(f"expected text, not {value!r}; write it in quotes")


def read_json(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a JSON object, not {value!r} ({error.msg})") from None
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise ValueError(f"expected a JSON object, not {value!r}")


READERS = {bool: read_bool, int: read_int, float: read_float, str: read_str, dict: read_json}
METAVARS = {bool: "BOOL", int: "INTEGER", float: "NUMBER", str: "TEXT", dict: "JSON"}


def shape_of(annotation: Any, reader: Reader | None = None) -> Shape:
    """The shape of a field's annotation; TypeError for one that no option can spell."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = next((item for item in arguments[1:] if isinstance(item, Reader)), None)
        return shape_of(arguments[0], reader or found)
    if origin in (Union, types.UnionType):
        return _optional(annotation, arguments, reader)
    if origin is Literal and all(isinstance(argument, str) for argument in arguments):
        return Shape(scalar=str, reader=reader or Choice("", arguments))
    if origin in (list, tuple) and (origin is list or arguments[1:] == (Ellipsis,)):
        one = shape_of(arguments[0], reader)
        if not one.many and not one.optional:
            return Shape(scalar=one.scalar, many=True, reader=one.reader)
    scalar: Any = origin or annotation
    if scalar in READERS:
        return Shape(scalar=scalar, reader=reader)
    raise TypeError(f"{annotation} cannot be an option; use int, float, bool, str, Literal, or lists or None of those")


def _optional(annotation: Any, arguments: tuple[Any, ...], reader: Reader | None) -> Shape:
    rest = [argument for argument in arguments if argument is not type(None)]
    if len(rest) != 1:
        raise TypeError(f"{annotation} cannot be an option; only one type besides None is possible")
    inner = shape_of(rest[0], reader)
    return Shape(scalar=inner.scalar, many=inner.many, optional=True, reader=inner.reader)


def hints(schema: type[Any]) -> Mapping[str, Any]:
    """The annotations of a class with their markers, resolved."""
    return typing.get_type_hints(schema, include_extras=True)


def value_text(value: object) -> str:
    """A value as it would be written in a settings file, on one line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return str(value)
