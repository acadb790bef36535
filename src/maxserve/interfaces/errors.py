"""What can go wrong, as one tree."""

from __future__ import annotations

from maxserve.core.interfaces.errors import *  # noqa: F403
