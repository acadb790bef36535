"""Keys and values of tokens as bytes, whatever the size of pages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from maxserve.interfaces.cache import CacheContext, KVLayer
from maxserve.plugins.cache.paged.copies import own_parts

if TYPE_CHECKING:
    import torch


class TokenBytes:
    """Of a range of tokens: each tensor of each layer in order, of each the tokens in order."""

    def __init__(self, context: CacheContext, layers: Sequence[KVLayer]) -> None:
        import torch

        tensors = [
            part
            for layer, kept in zip(layers, context.layers, strict=True)
            for part in own_parts(layer, kept.values_in_keys)
        ]
        self._parts = [tensor.view(torch.uint8).flatten(2) for tensor in tensors]  # [pages, page size, bytes] each
        self.token_bytes = sum(part.shape[2] for part in self._parts)
        self._page_size = context.page_size
        self._on_cpu = context.device.type == "cpu"  # where numpy copies, which needs no other threads to meet

    def read(self, pages: Sequence[int], start: int, stop: int) -> bytes:
        """Tokens `start` to `stop` of those on `pages`."""
        if self._on_cpu:
            own = list(pages)
            return b"".join(part.numpy()[own].reshape(-1, part.shape[2])[start:stop].tobytes() for part in self._parts)
        index = self._index(pages)
        return b"".join(
            part.index_select(0, index).flatten(0, 1)[start:stop].cpu().contiguous().numpy().tobytes()
            for part in self._parts
        )

    def write(self, pages: Sequence[int], data: bytes, skip: int) -> None:
        """Fills `pages` with tokens of `data`, but its first `skip`."""
        import numpy as np
        import torch

        tokens, at, index = len(data) // self.token_bytes if self.token_bytes else 0, 0, self._index(pages)
        raw = np.frombuffer(bytearray(data), dtype=np.uint8)
        for part in self._parts:
            width = part.shape[2]
            own = raw[at + skip * width : at + tokens * width].reshape(len(pages), self._page_size, width)
            if self._on_cpu:
                part.numpy()[list(pages)] = own
            else:
                part.index_copy_(0, index, torch.from_numpy(own).to(part.device))
            at += tokens * width

    def _index(self, pages: Sequence[int]) -> torch.Tensor:
        import torch

        device = self._parts[0].device if self._parts else "cpu"
        return torch.tensor(list(pages), dtype=torch.int64, device=device)


def layout_of(context: CacheContext) -> str:
    """What is kept of a token, in words that are equal only where the bytes mean the same."""
    format = context.format
    kind = str(context.dtype) if format is None else f"{type(format).__name__} {format.dtype} {format.scale_dtype}"
    sizes = [
        (layer.kv_heads, layer.head_dim, 0 if layer.values_in_keys else layer.value_size, layer.index_dim)
        for layer in context.layers
    ]
    runs = ", ".join(f"{len(list(run))} x {size}" for size, run in groupby(sizes))
    return f"{kind}; layers of (heads, key, value, index): {runs}"
