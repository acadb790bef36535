"""Copies of pages between the device and host memory.

A page is one row of bytes on the host, whatever its layers look like. On a GPU the host's memory is pinned; copies to
it run on a stream of their own beside the model, and copies from it run on the model's stream, so that a step that is
submitted after them sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from maxserve.interfaces.cache import CacheContext, KVLayer
from maxserve.plugins.cache.paged.storage import untouched

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 30  # bytes; torch rounds each piece of pinned memory up to a power of two, so large ones would waste half
TOGETHER = 8  # pages; what a copy gathers in between is bounded by that

Pairs = Sequence[tuple[int, int]]  # (device page, host page)
Copy: TypeAlias = Callable[[bool, Pairs], None]  # pages, to the host or from there


class PageCopies:
    """`context.host_pages` pages of host memory, and the ways there and back. One thread."""

    def __init__(self, context: CacheContext, layers: Sequence[KVLayer]) -> None:
        import torch

        tensors = [
            part
            for layer, kept in zip(layers, context.layers, strict=True)
            for part in own_parts(layer, kept.values_in_keys)
        ]
        self._parts = [tensor.view(torch.uint8).flatten(1) for tensor in tensors]  # [pages, bytes] each
        self._widths = [part.shape[1] for part in self._parts]
        self._device = context.device
        cuda = context.device.type == "cuda"
        self._stream = torch.cuda.Stream(context.device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied: torch.Event | None = None  # the last copies to the host; None when there is nothing to wait for
        self._blocks, self._per_block = _blocks(context, sum(self._widths))
        self.tell: Copy | None = None  # other ranks that share the model, of each copy

    def copy(self, to_host: bool, pairs: Pairs) -> None:
        """What another one has told."""
        if to_host:
            self.save(pairs)
        else:
            self.load(pairs)

    def save(self, pairs: Pairs) -> None:
        """Copies device pages, as the steps submitted so far leave them, to the host."""
        if not self._parts or not pairs:
            return
        if self.tell is not None:
            self.tell(True, pairs)
        if self._stream is None:
            self._save(pairs)
            return
        import torch

        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._save(pairs)
            self._copied = self._stream.record_event()

    def load(self, pairs: Pairs) -> None:
        """Copies pages from the host, before any step that is submitted from now on."""
        if not self._parts or not pairs:
            return
        import torch

        if self.tell is not None:
            self.tell(False, pairs)
        self.settle()
        for some in _chunks(pairs):
            staged = torch.empty((len(some), sum(self._widths)), dtype=torch.uint8, device=self._device)
            for row, (_, page) in enumerate(some):
                staged[row].copy_(self._row(page), non_blocking=True)
            index = self._index(page for page, _ in some)
            start = 0
            for part, width in zip(self._parts, self._widths, strict=True):
                part.index_copy_(0, index, staged.narrow(1, start, width))
                start += width

    def settle(self) -> None:
        """Lets the model's stream wait for copies under way: call it before their pages are given to others."""
        if self._copied is not None:
            import torch

            torch.cuda.current_stream(self._device).wait_event(self._copied)
            self._copied = None

    def _save(self, pairs: Pairs) -> None:
        import torch

        for some in _chunks(pairs):
            index = self._index(page for page, _ in some)
            staged = torch.cat([part.index_select(0, index) for part in self._parts], 1)
            for row, (_, page) in enumerate(some):
                self._row(page).copy_(staged[row], non_blocking=True)

    def _row(self, page: int) -> torch.Tensor:
        return self._blocks[page // self._per_block][page % self._per_block]

    def _index(self, pages: Iterator[int]) -> torch.Tensor:
        import torch

        index = torch.tensor(list(pages))
        return index if self._stream is None else index.pin_memory().to(self._device, non_blocking=True)


def own_parts(layer: KVLayer, values_in_keys: bool) -> tuple[torch.Tensor, ...]:
    """The tensors of a layer that are no part of others."""
    if not values_in_keys:
        return layer.parts
    return tuple(part for part in (layer.keys, layer.key_scales) if part is not None)


def _chunks(pairs: Pairs) -> Iterator[Pairs]:
    return (pairs[start : start + TOGETHER] for start in range(0, len(pairs), TOGETHER))


def _blocks(context: CacheContext, width: int) -> tuple[list[torch.Tensor], int]:
    """Host memory for all pages of `width` bytes, and the pages in each of its pieces."""
    import torch

    per_block, pages = max(1, BLOCK // max(width, 1)), context.host_pages
    blocks: list[torch.Tensor] = []
    for start in range(0, pages, per_block):
        shape = (min(per_block, pages - start), width)
        pinned = context.device.type == "cuda"
        blocks.append(
            torch.empty(shape, dtype=torch.uint8, pin_memory=True) if pinned else untouched(shape, torch.uint8)
        )
    return blocks, per_block
