"""Options of profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.config import Choice
from maxserve.interfaces.config import Option

MODES = Choice("GPUProfilingMode", ("off", "on", "detailed"))


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Marks for profilers of the device."""

    gpu_profiling: Annotated[
        str,
        MODES,
        Option(env=("MODULAR_ENABLE_PROFILING",)),
        Field(description="Mark steps, or with detailed also kernels, for the GPU profiler."),
    ] = "off"


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Profiles that requests ask for."""

    profile_serve: Annotated[
        bool,
        Option(server=True, negatable=False),
        Field(description="Let a request ask with ?profile=1 for a profile of the API process."),
    ] = False
