"""What several ranks can share so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.registry.protocol import Host

COMPILERS = ("auto", "none")


def validate_shared(settings: Settings, host: Host, files: ModelFiles) -> None:
    """SettingsError naming what does not go with several ranks yet, and what to do."""
    model, ranks = settings.model, f"--devices {settings.model.devices}"
    architecture = host.architectures.get(files.architecture).component
    compiler = model.layer_compiler
    refused = {
        f"{ranks}: architecture {architecture.name!r} does not say that ranks can share it (tensor_parallel); name one "
        "device": not architecture.tensor_parallel,
        f"--layer-compiler {compiler} does not go with {ranks}: ranks meet within each layer, which then runs as it is "
        "written; leave it out, or name one device": compiler not in COMPILERS,
    }
    for text, asked in refused.items():
        if asked:
            raise SettingsError(text)
