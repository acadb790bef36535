"""Images of requests: fetching, decoding, processors."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Where images may be from, and how large they may be."""
    yield ConfigSection(name="images", schema="maxserve.plugins.vision.options:ImageOptions", within="server")
