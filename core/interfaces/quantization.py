"""Quantization formats: how checkpoints hold weights in fewer bits than they are served in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.codes import Codes, CodesLayout
from maxserve.core.interfaces.component import Component, Context, Ref
from maxserve.core.interfaces.weight_format import TensorInfo, WeightFile

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.cache import CacheFactors, CacheLayer


__all__ = [
    "BuiltQuantizationFormat",
    "HasCacheFactors",
    "HasCodes",
    "LeavesOut",
    "NamesEncoding",
    "NamesEncodings",
    "NamesRounded",
    "PlainCheckpoint",
    "QuantizationContext",
    "QuantizationFormat",
    "ReadsContents",
    "RoundingContext",
    "Rounds",
    "Rounding",
    "SeesOthers",
    "Unpacks",
    "WritesCheckpoints",
    "WritesFiles",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationFormat(Component):
    """A format of quantized checkpoints. `build(QuantizationContext)` gives a BuiltQuantizationFormat.

    A checkpoint is in the format if "quant_method" of its config.json's "quantization_config" is the name of the
    format, or, where there is a `match`, if `match(config)` says so of the content of config.json. `build` and `match`
    are called before anything of the model is loaded, in every process; they import no torch.

    Where config.json has no "quantization_config", what it has as `config_key` is that, or the content of a
    `config_file` beside it, with the name of the format as its "quant_method".

    `rounds` are the values of `--quantization-encoding` that plain weights can be rounded to while they are loaded.
    What is built for that `Rounds`, and finds the value as the "encoding" of a "quantization_config" of its name;
    `rounding(RoundingContext)` gives the Rounding that has it round a model.
    `writes` are encodings that are no rounding, in which what is built for them writes models, too (`max quantize`).
    """

    kind: ClassVar[str] = "quantization_format"

    match: Ref | None = None
    config_key: str | None = None
    config_file: str | None = None
    rounds: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    rounding: Ref = "maxserve.quantization:WeightRounding"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationContext(Context):
    """`model_config` is the content of config.json."""

    model_config: Mapping[str, Any]


class BuiltQuantizationFormat(Protocol):
    """What belongs to a quantized weight, and its shape. Each is a `HasCodes` or an `Unpacks`, too.

    A weight is held in any number of tensors, each with a role; where one checkpoint has several ways to hold weights,
    roles say which. `dtype` is the type of unpacked weights and `types` are
    the types of packed tensors, all as safetensors names them or, in other files, as their WeightFormat does.
    """

    dtype: str
    types: frozenset[str]

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        """The name of the weight that a checkpoint's tensor belongs to, and its role there; None for a tensor that is
        not packed."""
        ...

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        """The shape [..., outputs, inputs] of the weight with these tensors by role; ModelError saying which one is
        missing, or how they do not fit."""
        ...


@runtime_checkable
class NamesEncoding(Protocol):
    """A BuiltQuantizationFormat that says what `--quantization-encoding` calls the weights: q4_k, for example."""

    encoding: str


@runtime_checkable
class NamesEncodings(NamesEncoding, Protocol):
    """A NamesEncoding whose checkpoints may hold weights in several encodings, whatever they are called themselves."""

    def encoding_of(self, tensors: Mapping[str, TensorInfo]) -> str:
        """That of the weight with these tensors by role."""
        ...


@runtime_checkable
class ReadsContents(Protocol):
    """A BuiltQuantizationFormat that needs to know what some small tensors hold before it can say anything of a weight:
    the shape, for example, where it is written down in one.

    `contents` are the roles of these tensors. `shape` and `layout` get the `content` of each with its TensorInfo.
    """

    contents: frozenset[str]


@runtime_checkable
class SeesOthers(Protocol):
    """A BuiltQuantizationFormat that knows some parts of weights by other tensors: codes of any type by what lies
    beside them, for example."""

    def part_among(self, tensor: str, types: Mapping[str, str]) -> tuple[str, str] | None:
        """What `part` says of the tensor, of a checkpoint that has tensors of these types by name; it is asked instead
        of `part`."""
        ...


@runtime_checkable
class LeavesOut(Protocol):
    """A BuiltQuantizationFormat whose checkpoints may have tensors that models do not need: biases of zeros."""

    def left_out(self, tensor: str, content: torch.Tensor) -> bool:
        """Whether a tensor that the model has no parameter for changes nothing that it computes."""
        ...


@runtime_checkable
class HasCacheFactors(Protocol):
    """A BuiltQuantizationFormat whose checkpoints may say what stored keys and values are divided by."""

    def cache_factors(self, files: Sequence[WeightFile], layers: Sequence[CacheLayer]) -> Mapping[int, CacheFactors]:
        """Those that the checkpoint has, by layer; ModelError for ones that do not fit the model's `layers`."""
        ...


@runtime_checkable
class HasCodes(Protocol):
    """A BuiltQuantizationFormat whose weights are codes, which linear methods can multiply by as they are."""

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        """How the weight with these tensors by role is coded."""
        ...

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        """The weight [outputs, inputs], or an entry of a stacked one, of its tensors by role; ModelError where they do
        not fit."""
        ...


@runtime_checkable
class Unpacks(Protocol):
    """A BuiltQuantizationFormat whose weights are unpacked while they are loaded."""

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight [outputs, inputs] in the type `dtype`, or an entry of a stacked one, of its tensors by role;
        ModelError where they do not fit."""
        ...


@runtime_checkable
class Rounds(HasCodes, Protocol):
    """A BuiltQuantizationFormat that makes quantized weights of plain ones, as they are loaded or for a file."""

    def rounded_tensors(self, outputs: int, inputs: int) -> Mapping[str, TensorInfo]:
        """The tensors, by role, that a weight of that size becomes; none where it stays as it is."""
        ...

    def rounded(self, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The tensors, by role, of rows [n, inputs] of a weight, each of which is rounded by itself; ModelError for
        values that cannot be."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingContext(Context):
    """The `encoding` that weights are rounded to, what `rounds` them, and who that is, in one version (`by`).

    What comes out is kept in the folder `cache`, if there is one (`--cache-quantized`).
    """

    encoding: str
    rounds: Rounds
    by: str
    cache: str = ""


class Rounding(Protocol):
    """Rounds the weights of projections of one model while they are loaded. Sizes are asked before, of the model on
    the meta device, and are bytes where a number takes `itemsize`."""

    def layout(self, outputs: int, inputs: int) -> CodesLayout | None:
        """That of the codes of a weight; None where it stays as it is."""
        ...

    def codes(self, rows: torch.Tensor) -> Codes:
        """Those of rows [n, inputs]."""
        ...

    def keep(self, name: str, values: int) -> None:
        """Notes that the weight of that name stays as it is."""

    def say(self) -> None:
        """Logs what it cost, and what it changed: all weights are there."""

    def held_bytes(self, model: torch.nn.Module, itemsize: int) -> int:
        """What all weights take where codes are held."""
        ...

    def plain_bytes(self, model: torch.nn.Module, itemsize: int) -> int:
        """What the weights take that are not rounded."""
        ...

    def copied_bytes(self, model: torch.nn.Module, itemsize: int) -> int:
        """What rounded copies of shared tables take where they are stored as numbers."""
        ...


@runtime_checkable
class NamesRounded(Rounding, Protocol):
    """A Rounding that says what weights become of a size that its encoding has no blocks for."""

    def encodings(self, model: torch.nn.Module) -> Mapping[str, int]:
        """What is rounded, in bytes by encoding, of a model on the meta device."""
        ...


class PlainCheckpoint(Protocol):
    """A checkpoint that is not quantized: `name` is that of its repository or folder, `config` the content of
    config.json, `folder` has the tokenizer and what else lies beside the weights, `tensors` are these by name."""

    name: str
    config: Mapping[str, Any]
    folder: Path
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> torch.Tensor:
        """A tensor, on the CPU."""
        ...

    def differences(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> Sequence[str]:
        """How a model of one config.json is another than that of a second one: a line each. What ends an answer is not
        compared. ModelError where one of them cannot be read."""
        ...


@runtime_checkable
class WritesCheckpoints(Rounds, Protocol):
    """A BuiltQuantizationFormat that writes the folder of a model whose weights it rounded (`max quantize`)."""

    def write(self, checkpoint: PlainCheckpoint, folder: Path) -> None:
        """Writes a model that is served as the checkpoint is with its weights rounded. There is no such folder yet, and
        after an error it is removed. ModelError, before most of the work, naming what cannot be written."""


@runtime_checkable
class WritesFiles(Protocol):
    """A BuiltQuantizationFormat that writes a model as one file (`max quantize`), whose name ends with `suffix`."""

    suffix: str

    def write_file(self, checkpoint: PlainCheckpoint, path: Path) -> Sequence[str]:
        """Writes a file that is served as the checkpoint is with its weights rounded, and gives lines about what is
        otherwise than the operator may expect. There is no such file yet, and after an error it is removed. ModelError,
        before most of the work, naming what cannot be written."""
        ...
