"""What checkpoints have keys and values divided by before they are rounded to 8 bits.

The tensors of layer N, in the attention of it or in a projection: `k_scale`, `v_scale`, `kv_scale` for both, and
`k_proj.output_scale`, `v_proj.output_scale`. Each is one number, or one for each key head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from maxserve.interfaces.cache import CacheFactors, CacheLayer
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.weight_format import WeightFile

if TYPE_CHECKING:
    import torch

_NAMED = re.compile(
    r"^\D*?\.?(?P<layer>\d+)\.(?:.*\.)?"
    r"(?:(?P<keys>k_scale|k_proj\.output_scale)|(?P<values>v_scale|v_proj\.output_scale)|kv_scale|kv_cache_scale)$"
)
_FIX = "fetch the checkpoint again, or store keys and values in another --kv-cache-format"


def cache_factors(files: Sequence[WeightFile], layers: Sequence[CacheLayer]) -> dict[int, CacheFactors]:
    """Those of a checkpoint by layer; ModelError for two that contradict each other, or of another size.

    A number that is not above 0 means 1, which is also what the other half of a pair has that is missing.
    """
    import torch

    found: dict[tuple[int, str], tuple[str, torch.Tensor]] = {}
    for name, layer, halves, scale in _scales(files, layers):
        heads = layers[layer].kv_heads
        if scale.numel() not in (1, heads):
            raise ModelError(f"{name} has {scale.numel()} numbers, and layer {layer} {heads} key heads; {_FIX}")
        own = scale.float().flatten().expand(heads)
        own = own.where((own > 0) & own.isfinite(), 1.0)
        for half in halves:
            other, before = found.setdefault((layer, half), (name, own))
            if not torch.equal(own, before):
                raise ModelError(f"{name} and {other} are different scales for the {half} of layer {layer}; {_FIX}")
    numbers = sorted({layer for layer, _ in found})
    return {number: _pair(found, number, layers[number].kv_heads) for number in numbers}


def _pair(found: Mapping[tuple[int, str], tuple[str, torch.Tensor]], layer: int, heads: int) -> CacheFactors:
    import torch

    keys, values = (found.get((layer, half), ("", torch.ones(heads)))[1] for half in ("keys", "values"))
    return CacheFactors(keys.contiguous(), values.contiguous())


def _scales(
    files: Sequence[WeightFile], layers: Sequence[CacheLayer]
) -> Iterator[tuple[str, int, tuple[str, ...], torch.Tensor]]:
    """Each tensor with its layer and what it is for; what is behind the model's layers is a drafter's."""
    for file in files:
        named = [(name, match) for name in file.tensors if (match := _NAMED.match(name))]
        if not named:
            continue
        with file.open() as read:
            for name, match in named:
                layer = int(match["layer"])
                halves = tuple(half for half in ("keys", "values") if match[half]) or ("keys", "values")
                if layer < len(layers):
                    yield name, layer, halves, read(name).clone()
