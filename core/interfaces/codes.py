"""Codes: weights as small numbers, a table of what they mean, and scales."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["Codes", "CodesLayout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesLayout:
    """What is known of Codes before they are read: how many `levels` their table has, and their `group`.

    `added` are the bytes that the scale of a group takes beyond what the file has for it, where it is of a wider type.
    """

    levels: int
    group: int
    added: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """A weight [rows, inputs]: in float32, and in this order of operations,

        weight[row, i] = scale * (table[codes[row, i]] - zero) - offset

    `codes` are uint8 [rows, inputs], `table` is float32 [levels]. `scales`, `offsets` and `zeros` [rows, groups] are
    shared by `group` neighbouring inputs, fewer in the last group; without `offsets` or `zeros` these are 0. Where the
    scales themselves are scaled, `block` groups share one of `block_scales` and, if there are offsets, of
    `block_offsets` [rows, blocks], which are multiplied by theirs first. All are of any type of numbers.

    Where `order` [inputs] int64 is given, column i stands for input `order[i]` of the weight.
    """

    codes: Tensor
    table: Tensor
    group: int
    scales: Tensor
    offsets: Tensor | None = None
    zeros: Tensor | None = None
    block: int = 1
    block_scales: Tensor | None = None
    block_offsets: Tensor | None = None
    order: Tensor | None = None

    @property
    def layout(self) -> CodesLayout:
        return CodesLayout(levels=len(self.table), group=self.group)

    def group_scales(self) -> Tensor:
        """The scale of each group, [rows, groups] float32."""
        return _scaled(self.scales, self.block_scales, self.block)

    def group_offsets(self) -> Tensor | None:
        """The offset of each group, [rows, groups] float32, without what zeros amount to."""
        return None if self.offsets is None else _scaled(self.offsets, self.block_offsets, self.block)

    def values(self) -> Tensor:
        """The weight [rows, inputs] in float32."""
        values = self.table.float()[self.codes.int()]
        if self.zeros is not None:
            values = values - self._by_input(self.zeros.float())
        values = self._by_input(self.group_scales()) * values
        offsets = self.group_offsets()
        if offsets is not None:
            values = values - self._by_input(offsets)
        if self.order is None:
            return values
        result = values.new_empty(values.shape)
        result[:, self.order] = values
        return result

    def rows(self, first: int, last: int) -> Codes:
        """Rows from `first` to before `last`."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _SHARED}
        return replace(self, **{name: each[first:last] for name, each in own.items() if each is not None})

    def _by_input(self, groups: Tensor) -> Tensor:
        return groups.repeat_interleave(self.group, -1)[:, : self.codes.shape[-1]]


_SHARED = frozenset({"table", "group", "block", "order"})  # by all rows


def _scaled(groups: Tensor, blocks: Tensor | None, block: int) -> Tensor:
    if blocks is None:
        return groups.float()
    return blocks.float().repeat_interleave(block, -1)[:, : groups.shape[-1]] * groups.float()
