"""Grammar back ends: texts held to a schema, an expression, a grammar."""

from __future__ import annotations

from maxserve.core.interfaces.grammar import *  # noqa: F403
