"""How many drafts are worth it, for speculative methods of any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.speculation.draft_models import LoadedDrafts
    from maxserve.plugins.speculation.lengths import AdaptiveLengths

__all__ = [
    "LoadedDrafts",
    "AdaptiveLengths",
]

__getattr__ = exports(
    __name__,
    {
        "LoadedDrafts": "maxserve.plugins.speculation.draft_models",
        "AdaptiveLengths": "maxserve.plugins.speculation.lengths",
    },
)
