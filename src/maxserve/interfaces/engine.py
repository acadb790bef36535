"""Engines: what serves the models of a task."""

from __future__ import annotations

from maxserve.core.interfaces.engine import *  # noqa: F403
