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

from maxserve.interfaces.quantization import NamesEncodings
from maxserve.loading import Embedding, held_size, may_be_rounded, size_text, weight_bytes
from maxserve.plugins.quantization.rounding_cache import RoundingCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from maxserve.interfaces.codes import Codes, CodesLayout
    from maxserve.interfaces.quantization import RoundingContext
    from maxserve.interfaces.weight_format import TensorInfo

log = logging.getLogger("maxserve.model")

_LISTED = 5


class WeightRounding:
    """A Rounding that NamesRounded and says what it came to; what its cache has is not rounded again."""

    def __init__(self, context: RoundingContext) -> None:
        self.encoding, self.rounds = context.encoding, context.rounds
        self._cache = RoundingCache(context.cache, context.by) if context.cache else None
        self._values = self._before = self._after = 0
        self._seconds = self._squares = self._errors = 0.0
        self._kept: Counter[str] = Counter()  # values by the end of a weight's name
        self._instead: Counter[str] = Counter()  # bytes by another encoding, of sizes that this one has no blocks for

    def keep(self, name: str, values: int) -> None:
        self._kept[".".join(re.sub(r"\.\d+(?=\.)", "", name.removesuffix(".weight")).split(".")[-2:])] += values

    def layout(self, outputs: int, inputs: int) -> CodesLayout | None:
        tensors = self.rounds.rounded_tensors(outputs, inputs)
        return self.rounds.layout(tensors) if tensors else None

    def codes(self, rows: Tensor) -> Codes:
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
        size = sum(tensor.nbytes for tensor in tensors.values())
        self._after += size
        if isinstance(self.rounds, NamesEncodings):
            found = self.rounds.encoding_of(self.rounds.rounded_tensors(*rows.shape))
            self._instead[found] += size if found != self.encoding else 0
        wanted = rows[:1].float()  # the first row is enough to tell how far off the others are
        self._squares += float(wanted.square().sum())
        self._errors += float((codes.rows(0, 1).values() - wanted).square().sum())
        return codes

    def say(self) -> None:
        if not self._values:
            log.warning("no weight has a size that can be rounded to %s: all stay as they are stored", self.encoding)
            return
        error = (self._errors / self._squares) ** 0.5 if self._squares else 0.0
        log.info(
            "%.1f million values of projections are rounded to %s: %s instead of %s, in %.1f s%s; they are off by "
            "%.2g %% (root mean square)",
            self._values / 1e6,
            self._encodings(),
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

    def _encodings(self) -> str:
        others = [f"{name} ({100 * size / self._after:.0f} %)" for name, size in self._instead.items() if size]
        return self.encoding + (f" and, of sizes without its blocks, to {', '.join(others)}" if others else "")

    def held_bytes(self, model: nn.Module, itemsize: int) -> int:
        tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
        size = weight_bytes(model, itemsize)
        for weight, tensors in self._rounded(model):
            entries = prod(weight.shape[:-2])
            size += entries * held_size(self.rounds, tensors, prod(weight.shape[-2:]))
            size -= 0 if id(weight) in tables else weight.numel() * itemsize
        return size

    def plain_bytes(self, model: nn.Module, itemsize: int) -> int:
        tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
        rounded = sum(weight.numel() for weight, _ in self._rounded(model) if id(weight) not in tables)
        return weight_bytes(model, itemsize) - rounded * itemsize

    def copied_bytes(self, model: nn.Module, itemsize: int) -> int:
        tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
        return sum(weight.numel() * itemsize for weight, _ in self._rounded(model) if id(weight) in tables)

    def encodings(self, model: nn.Module) -> Mapping[str, int]:
        sizes: Counter[str] = Counter()
        for weight, tensors in self._rounded(model):
            encoding = self.rounds.encoding_of(tensors) if isinstance(self.rounds, NamesEncodings) else self.encoding
            sizes[encoding] += prod(weight.shape[:-2]) * sum(info.size for info in tensors.values())
        return sizes

    def _rounded(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, dict[str, TensorInfo]]]:
        """The weights of a model that are rounded, and the tensors that each [outputs, inputs] of them becomes."""
        seen: set[int] = set()
        for module in model.modules():
            if may_be_rounded(module) and id(weight := module.get_parameter("weight")) not in seen:
                seen.add(id(weight))
                tensors = self.rounds.rounded_tensors(*weight.shape[-2:])
                if tensors:
                    yield weight, dict(tensors)
