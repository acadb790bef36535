"""How the weights of projections are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from maxserve.core.interfaces.linear import BuiltLinearMethod
    from maxserve.core.interfaces.quantization import Rounding

PLAIN_TYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Read(Protocol):
    """What is read of a checkpoint, in a type of PLAIN_TYPES."""

    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearStorage:
    """What stores the weights of projections, and from which type; None: from that of each weight in the checkpoint.

    Without a `method` they are stored as other weights are. `rounding` is what plain ones are rounded by before.
    """

    method: BuiltLinearMethod | None
    encoding: torch.dtype | None = None
    rounding: Rounding | None = None

    def dtype(self, reads: Sequence[Read]) -> torch.dtype:
        """The type to give weights in that are read so; that of the widest part where parts differ."""
        widest = max((PLAIN_TYPES[read.dtype] for read in reads), key=lambda dtype: dtype.itemsize)
        wanted = self.encoding or widest
        return wanted if self.method is None else self.method.storage_dtype(wanted)
