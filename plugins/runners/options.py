"""Options of model runners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """Whether steps are recorded."""

    device_graph_capture: Annotated[
        bool, Field(description="Record the decode step as device graphs before serving, and replay them.")
    ] = False
