"""Weight formats: the kinds of file that hold a checkpoint's weights."""

from __future__ import annotations

from maxserve.core.interfaces.weight_format import *  # noqa: F403
