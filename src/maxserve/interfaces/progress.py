"""How far a start is."""

from __future__ import annotations

from maxserve.core.interfaces.progress import *  # noqa: F403
