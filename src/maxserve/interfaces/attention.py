"""Attention back ends."""

from __future__ import annotations

from maxserve.core.interfaces.attention import *  # noqa: F403
