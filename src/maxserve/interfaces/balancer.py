"""Balancers: which of several replicas of the model serves a request."""

from __future__ import annotations

from maxserve.core.interfaces.balancer import *  # noqa: F403
