"""HTTP routes and what they may use."""

from __future__ import annotations

from maxserve.core.interfaces.routes import *  # noqa: F403
