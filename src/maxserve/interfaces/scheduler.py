"""Schedulers: who runs in the next step."""

from __future__ import annotations

from maxserve.core.interfaces.scheduler import *  # noqa: F403
