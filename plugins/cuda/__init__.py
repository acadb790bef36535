"""Kernels of CUDA devices: so far, the options that choose among them."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Which kernels are used."""
    yield ConfigSection(
        name="cuda",
        schema="maxserve.plugins.cuda.options:KernelOptions",
        within="model",
        unsupported="torch chooses the kernels; leave it out",
    )
