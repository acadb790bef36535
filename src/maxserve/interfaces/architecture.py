"""Architectures: model families and the models they build."""

from __future__ import annotations

from maxserve.core.interfaces.architecture import *  # noqa: F403
