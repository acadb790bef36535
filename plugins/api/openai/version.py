"""Which maxserve is this?"""

from __future__ import annotations

from importlib.metadata import version as version_of


async def version() -> dict[str, str]:
    return {"version": version_of("maxserve")}
