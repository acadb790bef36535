"""The process that plugins live in."""

from __future__ import annotations

from maxserve.core.interfaces.process import *  # noqa: F403
