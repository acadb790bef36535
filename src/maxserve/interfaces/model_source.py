"""Model sources: what a model reference leads to."""

from __future__ import annotations

from maxserve.core.interfaces.model_source import *  # noqa: F403
