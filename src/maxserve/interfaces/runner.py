"""Model runners: the forward pass of a step."""

from __future__ import annotations

from maxserve.core.interfaces.runner import *  # noqa: F403
