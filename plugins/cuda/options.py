"""Options of the kernels of CUDA devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option

OFF = frozenset({"false", "off", "no", "0", ""})


@dataclass(frozen=True, slots=True)
class TextSwitch:
    """On or off written as a value; whatever does not say off says on."""

    metavar: str = "on|off"

    def read(self, value: object) -> bool:
        return value if isinstance(value, bool) else str(value).strip().lower() not in OFF


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Whose kernels are used."""

    use_experimental_kernels: Annotated[
        bool,
        TextSwitch(),
        Option(env=("USE_EXPERIMENTAL_KERNELS",)),
        Field(description="Use kernels that are still being tried."),
    ] = False
    use_vendor_blas: Annotated[
        bool,
        TextSwitch(),
        Field(description="Leave matrix products to the device vendor's library instead of our kernels."),
    ] = False
