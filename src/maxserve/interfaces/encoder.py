"""Models that encode texts: their batches, and what is known of their vectors."""

from __future__ import annotations

from maxserve.core.interfaces.encoder import *  # noqa: F403
