"""Cache strategies: keys and values in pages."""

from __future__ import annotations

from maxserve.core.interfaces.cache import *  # noqa: F403
