"""Settings of plugins."""

from __future__ import annotations

from maxserve.core.interfaces.config import *  # noqa: F403
