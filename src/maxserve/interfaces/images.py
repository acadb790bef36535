"""Images of prompts, as architectures read them."""

from __future__ import annotations

from maxserve.core.interfaces.images import *  # noqa: F403
