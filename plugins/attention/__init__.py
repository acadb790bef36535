"""The attention back ends that come with maxserve. Declared here."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.attention import AttentionBackend


@hookimpl
def maxserve_attention_backends() -> Iterable[AttentionBackend]:
    yield AttentionBackend(
        name="torch",
        build="maxserve.plugins.attention.paged:PagedAttention",
        reads_formats=True,
        summary="torch's own kernels over runs of neighbouring pages; any device",
    )
