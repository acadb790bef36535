"""Codes: weights as small numbers, a table of what they mean, and scales."""

from __future__ import annotations

from maxserve.core.interfaces.codes import *  # noqa: F403
