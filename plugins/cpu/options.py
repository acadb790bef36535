"""What the options of the compiled kernels need of other settings."""

from __future__ import annotations

from maxserve.config import Settings
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.cpu import Config


def check_activations(settings: Settings, config: Config) -> None:
    """SettingsError where nothing that multiplies takes other activations than float32."""
    if config.activations == "float32":
        return
    model, option = settings.model, f"--native.activations {config.activations}"
    if model.linear_method not in ("auto", "native"):
        raise SettingsError(
            f"{option} is for the linear method native, not for --linear-method {model.linear_method}; leave one out"
        )
    if not model.use_subgraphs:
        raise SettingsError(
            f"{option} is for compiled kernels, which --no-use-subgraphs forbids; leave one of them out"
        )
    if _on_gpu(model.devices):
        raise SettingsError(
            f"{option} is for CPUs, and --devices is {model.devices}; name cpu, or leave the option out"
        )
    if config.precision == "fast":
        raise SettingsError(
            f"--native.precision fast rounds rows to bfloat16, {option} to whole numbers; leave one of them out"
        )


def _on_gpu(devices: str) -> bool:
    if devices != "default":
        return not devices.startswith("cpu")
    import torch  # only of those who ask for such activations

    return torch.cuda.is_available()
