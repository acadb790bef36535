"""What every component and every build have in common."""

from __future__ import annotations

from maxserve.core.interfaces.component import *  # noqa: F403
