"""The plugins of a process, as builds and commands see them."""

from __future__ import annotations

from maxserve.core.interfaces.host import *  # noqa: F403
