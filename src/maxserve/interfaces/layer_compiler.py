"""Layer compilers: one call for a whole layer."""

from __future__ import annotations

from maxserve.core.interfaces.layer_compiler import *  # noqa: F403
