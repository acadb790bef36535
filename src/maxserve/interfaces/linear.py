"""Linear methods: how the weights of projections are stored and multiplied."""

from __future__ import annotations

from maxserve.core.interfaces.linear import *  # noqa: F403
