"""Images in prompts and steps, for architectures of any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.vision.steps import StepImages

__all__ = ["StepImages"]

__getattr__ = exports(__name__, {"StepImages": "maxserve.plugins.vision.steps"})
