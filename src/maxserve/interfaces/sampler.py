"""Samplers: transforms of logits that requests can ask for."""

from __future__ import annotations

from maxserve.core.interfaces.sampler import *  # noqa: F403
