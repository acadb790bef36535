"""The inputs of one step."""

from __future__ import annotations

from maxserve.core.interfaces.batch import *  # noqa: F403
