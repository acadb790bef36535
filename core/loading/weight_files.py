"""Weight files: which of a folder or repository are read, by the formats that plugins declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.weight_format import (
    BuiltWeightFormat,
    ReadsTensor,
    SupportsModelFiles,
    SupportsSplitFiles,
    WeightFile,
    WeightFormat,
    WeightQuery,
)

if TYPE_CHECKING:
    import torch

    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHERS = {"*.gguf": "GGUF", "*.onnx": "ONNX", "openvino_model.*": "OpenVINO", "*.msgpack": "Flax", "*.h5": "Keras"}
_LISTED = 5
_OPEN = 8  # files at once


def choose_weights(host: Host, query: WeightQuery) -> list[str]:
    """The names of the weight files to read; ModelError saying what there is instead."""
    for entry in _by_priority(host):
        if chosen := _built(host, entry).choose(query):
            return list(chosen)
    raise ModelError(_nothing(host, query))


def open_weights(host: Host, paths: Iterable[str], config: Mapping[str, Any]) -> list[WeightFile]:
    """The weight files of a model, whose config.json has the content `config`; ModelError where one cannot be read."""
    return [weight_format(host, path).open(path, config) for path in paths]


def tensor_of(file: WeightFile, name: str) -> torch.Tensor:
    """One tensor, through a mapping of its own that ends with it."""
    with file.open() as tensor:
        return tensor(name)


class OpenFiles:
    """Reads tensors of several weight files, which are opened once each; of more than `_OPEN`, the latest are open.

    An open safetensors file is a parsed header and a mapping, so one is opened for many tensors, and for no longer.
    """

    def __init__(self, files: Mapping[str, WeightFile]) -> None:
        self._files = files
        self._open: dict[str, tuple[ExitStack, ReadsTensor]] = {}  # by path, those used last at the end

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            self._close(next(iter(self._open)))

    def __call__(self, path: str, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        found = self._open.pop(path, None)
        if found is None:
            if len(self._open) == _OPEN:
                self._close(next(iter(self._open)))
            stack = ExitStack()
            found = stack, stack.enter_context(self._files[path].open())
        self._open[path] = found
        return found[1](name, rows)

    def _close(self, path: str) -> None:
        self._open.pop(path)[0].close()


def open_files(files: Iterable[WeightFile]) -> OpenFiles:
    """What reads a tensor, given its file's path and its name; to be used as a context manager."""
    return OpenFiles({file.path: file for file in files})


def model_files(host: Host, paths: Sequence[str]) -> Mapping[str, bytes]:
    """The config and the tokenizer that weight files hold, by file name; empty where they hold weights alone."""
    formats = ((path, weight_format(host, path)) for path in paths)
    holding = ((path, format) for path, format in formats if isinstance(format, SupportsModelFiles))
    return next((format.model_files(path) for path, format in holding), {})


def holds_config(host: Host, names: Iterable[str]) -> bool:
    """Whether one of these files is in a format that has the config of the model with its weights."""
    formats = [entry for entry in _by_priority(host) if isinstance(_built(host, entry), SupportsModelFiles)]
    return any(name.endswith(entry.component.suffixes) for name in names for entry in formats)


def files_of(host: Host, name: str) -> Sequence[str]:
    """All files of the model that a weight file belongs to, where its format knows them."""
    format = weight_format(host, name)
    return format.files_of(name) if isinstance(format, SupportsSplitFiles) else [name]


def weight_format(host: Host, name: str) -> BuiltWeightFormat:
    """The format of a file of that name; ModelError for one that is not read."""
    for entry in _by_priority(host):
        if name.endswith(entry.component.suffixes):
            return _built(host, entry)
    if any(fnmatch(name, pattern) for pattern in _PICKLES):
        raise ModelError(f"{name}: pickle files can run code and are not read; convert them to {_formats(host)}")
    for pattern, other in _OTHERS.items():
        if fnmatch(name, pattern):
            raise ModelError(f"{name}: {other} files are not supported yet; use a {_formats(host)} checkpoint")
    raise ModelError(f"{name}: weights are read from {_suffixes(host)} files only")


def weight_suffixes(host: Host) -> tuple[str, ...]:
    """Endings of the names of files, none of which a repository has: of weights that are read, and of others."""
    read = (suffix for entry in host.of(WeightFormat) for suffix in entry.component.suffixes)
    return (*read, ".gguf", *(pattern.removeprefix("*") for pattern in _PICKLES))


def _by_priority(host: Host) -> list[Entry[WeightFormat]]:
    return sorted(host.of(WeightFormat), key=lambda entry: (-entry.component.priority, entry.name))


def _built(host: Host, entry: Entry[WeightFormat]) -> BuiltWeightFormat:
    built: BuiltWeightFormat = host.build(entry, Context())
    return built


def _nothing(host: Host, query: WeightQuery) -> str:
    root = sorted(name for name in query.names if "/" not in name)
    beside = [name for entry in _by_priority(host) for name in root if name.endswith(entry.component.suffixes)]
    if beside:
        listed = ", ".join(beside[:_LISTED]) + (f" and {len(beside) - _LISTED} more" if len(beside) > _LISTED else "")
        return f"{query.ref} has no weights of a model, only what lies beside them: {listed}; fetch the model itself"
    if any(fnmatch(name, pattern) for name in root for pattern in _PICKLES):
        remedy = f"convert them to {_formats(host)}"
        return f"{query.ref} has only pickle weights, which can run code and are not read; {remedy}"
    for pattern, other in _OTHERS.items():
        if any(fnmatch(name, pattern) for name in root):
            remedy = f"use a {_formats(host)} checkpoint"
            return f"{query.ref} has only {other} weights, which are not supported yet; {remedy}"
    return f"{query.ref} has no weights: there is no {_suffixes(host)} file beside config.json"


def _formats(host: Host) -> str:
    return " or ".join(entry.name for entry in _by_priority(host))


def _suffixes(host: Host) -> str:
    return " or ".join(suffix for entry in _by_priority(host) for suffix in entry.component.suffixes)
