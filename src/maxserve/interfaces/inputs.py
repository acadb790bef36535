"""The inputs of one step."""

from __future__ import annotations

from maxserve.core.interfaces.inputs import *  # noqa: F403
