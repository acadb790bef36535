"""Linear methods: how the weights of projections are stored and multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.codes import Codes, CodesLayout


__all__ = [
    "BuiltLinearMethod",
    "CodesExperts",
    "CodesLinear",
    "ExpertLayer",
    "LinearContext",
    "LinearMethod",
    "PackedExperts",
    "PackedLinear",
    "SupportsCodes",
    "SupportsEmbedding",
    "SupportsExperts",
    "SupportsPlainRows",
    "SupportsRounding",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMethod(Component):
    """A way to store the weights of projections and to multiply by them. `build(LinearContext)` gives a
    BuiltLinearMethod.

    Which method serves is decided as for attention back ends.
    """

    kind: ClassVar[str] = "linear_method"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearContext(Context):
    """`compute` is the type of what is multiplied and of what comes out."""

    compute: torch.dtype
    device: torch.device


class PackedLinear(Protocol):
    """The weight [outputs, inputs] of one projection, as its method stores it."""

    def load_rows(self, rows: torch.Tensor, first: int) -> None:
        """Takes rows `first` … of the weight, in the method's `storage_dtype`; they may be gone after the call."""

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        ...


@runtime_checkable
class SupportsEmbedding(Protocol):
    """A PackedLinear that can also be read, so that a table which shares the weight is not stored a second time."""

    def embedding(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [N, inputs] of the weight by their numbers [N] int64, as they were loaded."""
        ...


class BuiltLinearMethod(Protocol):
    """What a LinearMethod builds: makes room for the weights of a model's projections."""

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """The type in which weights of a checkpoint in that type are given to `load_rows`."""
        ...

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> PackedLinear | None:
        """Room for one weight; None leaves it to the layer itself, which stores it as the checkpoint has it."""
        ...


@runtime_checkable
class SupportsRounding(Protocol):
    """A BuiltLinearMethod that may round rows to a narrower type before it multiplies them."""

    def row_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        """The type of rows that weights of a checkpoint in that type are multiplied by.

        Keys and values are stored in it unless the operator names another type.
        """
        ...


class PackedExperts(Protocol):
    """The weights [experts, outputs, inputs] of one projection of a mixture of experts, as their method stores them."""

    def load_rows(self, expert: int, rows: torch.Tensor, first: int) -> None:
        """Takes rows `first` … of one expert's weight, in the method's `storage_dtype`; they may be gone afterwards."""

    def multiply(self, x: torch.Tensor, ends: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[rows, inputs] to [rows, outputs], rows in the order of their experts: those of expert e end at `ends[e]`.

        `ends` [experts] int64 on the device of `x`; an expert without rows ends where the one before does. `bias` is
        [experts, outputs].
        """
        ...


@runtime_checkable
class ExpertLayer(Protocol):
    """A module of a model with a `weight` [experts, outputs, inputs], which a method may store instead."""

    experts: int

    def set_packed(self, packed: PackedExperts | CodesExperts) -> None:
        """From now on `packed` has the weights."""


@runtime_checkable
class SupportsExperts(Protocol):
    """A BuiltLinearMethod that also stores the weights of mixtures of experts."""

    def create_experts(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> PackedExperts | None:
        """Room for the weights of one projection; None leaves them to the layer itself."""
        ...


class CodesLinear(Protocol):
    """The weight [outputs, inputs] of one projection as codes, of one kind or of several."""

    def load_codes(self, codes: Codes, first: int) -> None:
        """Takes the codes of rows `first` … of the weight."""

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[..., inputs] to [..., outputs], as a PackedLinear."""
        ...

    def embedding(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [N, inputs] of the weight by their numbers [N] int64: its `values()`, in float32."""
        ...


@runtime_checkable
class SupportsPlainRows(Protocol):
    """A CodesLinear that takes some of its rows as they are: parts of a fused weight that a checkpoint leaves plain."""

    def load_rows(self, rows: torch.Tensor, first: int) -> None:
        """Takes rows `first` … as a PackedLinear does."""


class CodesExperts(Protocol):
    """The weights [experts, outputs, inputs] of one projection of a mixture of experts as codes."""

    def load_codes(self, expert: int, codes: Codes, first: int) -> None:
        """Takes the codes of rows `first` … of one expert's weight."""

    def multiply(self, x: torch.Tensor, ends: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[rows, inputs] to [rows, outputs], as PackedExperts."""
        ...


@runtime_checkable
class SupportsCodes(Protocol):
    """A BuiltLinearMethod that multiplies by codes as they are, without a copy of the weight in more bits.

    `layouts` are those of all codes that will be loaded, in the order of rows; None has their values loaded as those of
    other weights. Some rows of a weight may be no codes, where what `create_codes` gives SupportsPlainRows.
    """

    def create_codes(self, outputs: int, inputs: int, layouts: Sequence[CodesLayout]) -> CodesLinear | None:
        """Room for one weight."""
        ...

    def create_expert_codes(
        self, experts: int, outputs: int, inputs: int, layouts: Sequence[CodesLayout]
    ) -> CodesExperts | None:
        """Room for the weights of one projection of all experts; `layouts` are those of the first."""
        ...
