"""Adapter sources: where adapters are that requests name before they are loaded."""

from __future__ import annotations

from maxserve.core.interfaces.adapter_source import *  # noqa: F403
