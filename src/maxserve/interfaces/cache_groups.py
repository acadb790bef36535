"""Which layers share a table of pages, and how many pages does a sequence hold at once?"""

from __future__ import annotations

from maxserve.core.interfaces.cache_groups import *  # noqa: F403
