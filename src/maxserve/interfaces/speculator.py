"""Speculative methods: draft tokens, which the model verifies several at a time."""

from __future__ import annotations

from maxserve.core.interfaces.speculator import *  # noqa: F403
