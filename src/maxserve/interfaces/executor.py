"""Executors: where the worker of a model runs."""

from __future__ import annotations

from maxserve.core.interfaces.executor import *  # noqa: F403
