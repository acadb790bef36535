"""What layers may ask for during one forward pass."""

from __future__ import annotations

from maxserve.core.interfaces.step_context import *  # noqa: F403
