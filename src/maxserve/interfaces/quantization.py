"""Quantization formats: how checkpoints hold weights in fewer bits than they are served in."""

from __future__ import annotations

from maxserve.core.interfaces.quantization import *  # noqa: F403
