"""Adapters: corrections of projections that each request chooses for itself."""

from __future__ import annotations

from maxserve.core.interfaces.adapter import *  # noqa: F403
