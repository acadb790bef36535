"""Commands of `max`."""

from __future__ import annotations

from maxserve.core.interfaces.commands import *  # noqa: F403
