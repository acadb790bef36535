"""Pages of the KV cache's second tier, in host memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.memory_table import size_text

if TYPE_CHECKING:
    from maxserve.core.config import Settings

GIB = 1 << 30
FLAG = "--host-kvcache-swap-space-gb"


def host_pages(settings: Settings, page_bytes: int, left: int, warnings: list[str]) -> int:
    """Pages of `page_bytes` that fit into what was chosen; 0 when no second tier is wanted.

    `left` is what the host has free once everything else is placed. Nobody chose the default, so it gives way to half
    of that; a number that was chosen and cannot be had is a ModelError.
    """
    if not settings.kv_cache.enable_kvcache_swapping_to_host:
        return 0
    chosen = settings.kv_cache.host_kvcache_swap_space_gb
    size = int(chosen * GIB)
    if size > left and "kv_cache.host_kvcache_swap_space_gb" in settings.chosen:
        raise ModelError(
            f"{FLAG} {chosen:g} is {size_text(size)}, and {size_text(max(left, 0))} of the host's memory is free "
            "beside the rest of the plan; lower it or free some memory"
        )
    if size > left:
        size = max(left, 0) // 2
        warnings.append(
            f"the host tier gets {size_text(size)}, half of the host's memory that is free, and not the default of "
            f"{chosen:g} GiB; {FLAG} chooses another size"
        )
    if size < page_bytes:
        raise ModelError(
            f"{size_text(size)} for the host tier is less than one page of {size_text(page_bytes)}; give {FLAG} "
            f"{math.ceil(page_bytes / GIB * 1e4) / 1e4:g} or more, lower --kv-cache-page-size, or drop "
            "--enable-kvcache-swapping-to-host"
        )
    return size // page_bytes
