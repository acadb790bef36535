"""Cache strategies, and cache formats: keys and values in pages, and in which form."""

from __future__ import annotations

from maxserve.core.interfaces.cache import *  # noqa: F403
