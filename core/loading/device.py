"""Where the model runs."""

from __future__ import annotations

import torch

from maxserve.core.config.values import cpu_ranks
from maxserve.core.interfaces.errors import SettingsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(devices: str) -> torch.device:
    """The device for `--devices`: `default` takes GPU 0 when there is one, else the CPU."""
    if devices == "default":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if devices == "cpu":
        return torch.device("cpu")
    if cpu_ranks(devices) > 1:
        raise SettingsError(
            f"--devices {devices}: a model can be shared among several devices only where it generates text, by `max "
            "serve` or LLM; name one device"
        )
    _, _, number = devices.partition(":")
    index = int(number or 0)
    if not torch.cuda.is_available():
        raise SettingsError(f"--devices {devices}: this machine has no usable GPU; use --devices cpu")
    if index >= torch.cuda.device_count():
        known = ", ".join(f"gpu:{i}" for i in range(torch.cuda.device_count()))
        raise SettingsError(f"--devices {devices}: there is no such GPU; this machine has {known}")
    return torch.device("cuda", index)
