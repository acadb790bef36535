"""Switches of what requests may ask of samplers; switched off, a request that asks is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class Switches:
    """What requests may use."""

    enable_penalties: Annotated[
        bool, Field(description="Let requests use frequency, presence and repetition penalties.")
    ] = True
    enable_min_tokens: Annotated[bool, Field(description="Let requests ask for a minimum length with min_tokens.")] = (
        True
    )
