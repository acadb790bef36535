"""The names under which a server answers: the model's own, and those of adapters of it."""

from __future__ import annotations

from maxserve.core.interfaces.served_names import *  # noqa: F403
