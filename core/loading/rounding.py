"""Plain weights of projections that are rounded to codes while they are loaded.

Weights of tables, of norms and of projections that are not `roundable` stay as they are; so does the table that a
projection shares, which has its own rounded copy. What stays, such as the weight that makes keys of latent vectors,
which is multiplied by both ways, is named in the log.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from maxserve.core.interfaces.linear import ExpertLayer
from maxserve.core.loading.linear import Embedding, Linear, Projection
from maxserve.core.loading.memory import size_text, weight_bytes
from maxserve.core.loading.quantization import held_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from maxserve.core.interfaces.codes import Codes, CodesLayout
    from maxserve.core.interfaces.linear import CodesExperts, CodesLinear
    from maxserve.core.interfaces.quantization import Rounds
    from maxserve.core.interfaces.weight_format import TensorInfo
    from maxserve.core.loading.rounding_cache import RoundingCache

log = logging.getLogger("maxserve.model")

_LISTED = 5


class Rounding:
    """Rounds rows of weights to an `encoding`, and says what that came to; what a `cache` has is not rounded again."""

    def __init__(self, encoding: str, rounds: Rounds, cache: RoundingCache | None = None) -> None:
        self.encoding, self.rounds = encoding, rounds
        self._cache = cache
        self._values = self._before = self._after = 0
        self._seconds = self._squares = self._errors = 0.0
        self._kept: Counter[str] = Counter()  # values by the end of a weight's name

    def keep(self, name: str, values: int) -> None:
        """Notes that the weight of that name stays as it is."""
        self._kept[".".join(re.sub(r"\.\d+(?=\.)", "", name.removesuffix(".weight")).split(".")[-2:])] += values

    def layout(self, outputs: int, inputs: int) -> CodesLayout | None:
        """That of the codes of a weight; None where it stays as it is."""
        tensors = self.rounds.rounded_tensors(outputs, inputs)
        return self.rounds.layout(tensors) if tensors else None

    def codes(self, rows: Tensor) -> Codes:
        """Those of rows [n, inputs]."""
        began = time.monotonic()
        rows = rows.detach().cpu()
        cached = None if self._cache is None else self._cache.find(self.encoding, rows)
        tensors = self.rounds.rounded(rows) if cached is None else cached
        if cached is None and self._cache is not None:
            self._cache.add(self.encoding, rows, tensors)
        codes = self.rounds.codes(tensors)
        self._seconds += time.monotonic() - began
        self._values += rows.numel()
        self._before += rows.nbytes
        self._after += sum(tensor.nbytes for tensor in tensors.values())
        wanted = rows[:1].float()  # the first row is enough to tell how far off the others are
        self._squares += float(wanted.square().sum())
        self._errors += float((codes.rows(0, 1).values() - wanted).square().sum())
        return codes

    def values(self, tensor: Tensor) -> Tensor:
        """What the rows [..., inputs] of a tensor are once they are rounded, in float32."""
        codes = self.codes(tensor.reshape(-1, tensor.shape[-1]))
        return codes.values().to(tensor.device).view(tensor.shape)

    def say(self) -> None:
        """Logs what it cost, and what it changed."""
        if not self._values:
            log.warning("no weight has a size that can be rounded to %s: all stay as they are stored", self.encoding)
            return
        error = (self._errors / self._squares) ** 0.5 if self._squares else 0.0
        log.info(
            "%.1f million values of projections are rounded to %s: %s instead of %s, in %.1f s%s; they are off by "
            "%.2g %% (root mean square)",
            self._values / 1e6,
            self.encoding,
            size_text(self._after),
            size_text(self._before),
            self._seconds,
            "" if self._cache is None else f" ({self._cache.text()})",
            100 * error,
        )
        if self._kept:
            listed = ", ".join(f"{name} ({count:,})" for name, count in self._kept.most_common(_LISTED))
            more = f" and {len(self._kept) - _LISTED} more" if len(self._kept) > _LISTED else ""
            log.info("%.1f million other values are not rounded: %s%s", self._kept.total() / 1e6, listed, more)

    def held_bytes(self, model: nn.Module, itemsize: int) -> int:
        """What the weights of a model take that are held so; the model may be on the meta device."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
        size = weight_bytes(model, itemsize)
        for weight, tensors in self._rounded(model):
            entries = prod(weight.shape[:-2])
            size += entries * held_size(self.rounds, tensors, prod(weight.shape[-2:]))
            size -= 0 if id(weight) in tables else weight.numel() * itemsize
        return size

    def plain_bytes(self, model: nn.Module, itemsize: int) -> int:
        """What the weights take of a model that are not held so."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
        rounded = sum(weight.numel() for weight, _ in self._rounded(model) if id(weight) not in tables)
        return weight_bytes(model, itemsize) - rounded * itemsize

    def copied_bytes(self, model: nn.Module, itemsize: int) -> int:
        """What rounded copies of shared tables take where they are stored as numbers."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
        return sum(weight.numel() * itemsize for weight, _ in self._rounded(model) if id(weight) in tables)

    def _rounded(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, dict[str, TensorInfo]]]:
        """The weights of a model that are rounded, and the tensors that each [outputs, inputs] of them becomes."""
        seen: set[int] = set()
        for module in model.modules():
            if may_be_rounded(module) and id(weight := module.get_parameter("weight")) not in seen:
                seen.add(id(weight))
                tensors = self.rounds.rounded_tensors(*weight.shape[-2:])
                if tensors:
                    yield weight, dict(tensors)


def may_be_rounded(module: nn.Module) -> bool:
    """Whether it is a projection, of experts perhaps, whose weight may be rounded."""
    return isinstance(module, Projection) and isinstance(module, Linear | ExpertLayer) and module.roundable


class RoundedLinear:
    """A PackedLinear that rounds its rows, and gives the codes to what has `stored` the weight."""

    def __init__(self, rounding: Rounding, stored: CodesLinear) -> None:
        self._rounding, self._stored = rounding, stored
        self.multiply = stored.multiply

    def load_rows(self, rows: Tensor, first: int) -> None:
        self._stored.load_codes(self._rounding.codes(rows), first)


class RoundedExperts:
    """PackedExperts that do the same."""

    def __init__(self, rounding: Rounding, stored: CodesExperts) -> None:
        self._rounding, self._stored = rounding, stored
        self.multiply = stored.multiply

    def load_rows(self, expert: int, rows: Tensor, first: int) -> None:
        self._stored.load_codes(expert, self._rounding.codes(rows), first)
