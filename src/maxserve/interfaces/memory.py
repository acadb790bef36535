"""The plan of what a device's memory is for."""

from __future__ import annotations

from maxserve.core.interfaces.memory import *  # noqa: F403
