"""Weight formats: the kinds of file that hold a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component

if TYPE_CHECKING:
    import torch


__all__ = [
    "BuiltWeightFormat",
    "ReadsTensor",
    "SupportsModelFiles",
    "SupportsSplitFiles",
    "TensorInfo",
    "WeightFile",
    "WeightFormat",
    "WeightQuery",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat(Component):
    """A format of weight files. `build(Context)` gives a BuiltWeightFormat.

    `suffixes` are the endings of the names of such files. Of several formats with weights in one folder, that of the
    highest `priority` is read. Files are chosen and opened before anything of the model is loaded, in every process;
    that imports no torch.
    """

    kind: ClassVar[str] = "weight_format"

    suffixes: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightQuery:
    """A folder or repository in which weights are looked for.

    `names` are all files, with / between folders; `fetch(name)` gives the local path of one of them. `encoding` is what
    the operator asked for (`--quantization-encoding`). `ref` names the model in messages.
    """

    ref: str
    names: Collection[str]
    fetch: Callable[[str], str]
    encoding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor as its file describes it, `size` in bytes.

    `dtype` is F64, F32, BF16, F16, I64, I32, I16, I8, U8 or BOOL; other names are of types that only a quantization
    format can read. `content` is what the tensor holds, where a quantization format asks for it (`ReadsContents`).
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    content: torch.Tensor | None = field(default=None, compare=False)


class ReadsTensor(Protocol):
    """Reads tensors of one file."""

    def __call__(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """A tensor, or its rows from the first number to before the second, on the CPU. It stays valid after the file
        is closed."""
        ...


class WeightFile(Protocol):
    """A weight file. `tensors` are in the names and the layout of a Hugging Face checkpoint of the model."""

    path: str
    tensors: Mapping[str, TensorInfo]

    def is_mapped(self, name: str) -> bool:
        """Whether a tensor that is read is the mapped file itself: pages that processes share, and no copy."""
        ...

    def open(self) -> AbstractContextManager[ReadsTensor]:
        """Opens the file anew; ModelError where it is damaged. A mapping ends with the last tensor read through it."""
        ...


class BuiltWeightFormat(Protocol):
    """Finds and opens the weight files of a format. One thread uses it at a time."""

    def choose(self, query: WeightQuery) -> Sequence[str]:
        """The names of the files to read, none where there are no weights in this format; ModelError, with what to do,
        where weights are incomplete."""
        ...

    def open(self, path: str, config: Mapping[str, Any]) -> WeightFile:
        """One file; ModelError, with what to do, where it cannot be read.

        `config` is the content of the model's config.json, {} where it is not known yet.
        """
        ...


@runtime_checkable
class SupportsModelFiles(Protocol):
    """A BuiltWeightFormat whose files hold the config of the model, so that they can be served by themselves."""

    def model_files(self, path: str) -> Mapping[str, bytes]:
        """The contents of config.json, tokenizer.json and what else lies in the folder of a model, by name.

        Where weights are read with a config.json from elsewhere, the "quantization_config" of this one holds.
        """
        ...


@runtime_checkable
class SupportsSplitFiles(Protocol):
    """A BuiltWeightFormat whose models may lie in several files, of which any one stands for all of them."""

    def files_of(self, name: str) -> Sequence[str]:
        """The names of all files of the model that one of its files has, itself alone where it is not split."""
        ...
