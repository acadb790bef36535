"""The image reader of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.errors import PluginError, SettingsError, cause
from maxserve.core.interfaces.images import ImagesContext, ReadsImages
from maxserve.core.loading.json_files import read_object

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.tokenizer import Tokenizer
    from maxserve.core.registry.protocol import Host

SAMPLE = (64, 48)  # pixels of an image that every processor takes


def with_overrides(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json with `--vision-config-overrides` in its vision part."""
    return config | {"vision_config": {**(config.get("vision_config") or {}), **overrides}} if overrides else config


def image_reader(
    settings: Settings, host: Host, path: str, architecture: str, tokenizer: Tokenizer
) -> ReadsImages | None:
    """What the architecture of the model in that folder says; None for one that takes text only."""
    entry = host.architectures.get(architecture)
    if entry.component.images is None:
        return None
    overrides = settings.model.vision_config_overrides
    context = ImagesContext(
        sections=host.section_values(settings),
        path=path,
        model=with_overrides(read_object(Path(path) / "config.json"), overrides),
        tokenizer=tokenizer,
        overrides=overrides,
    )
    reader: ReadsImages = host.load(entry, entry.component.images)(context)
    if not reader.placeholder:
        raise PluginError(f"{entry.title}: its `images` must say what the chat template writes where an image stands")
    if overrides:
        _try(reader, overrides)
    return reader


def _try(reader: ReadsImages, overrides: Mapping[str, Any]) -> None:
    """Values that nothing can be read with are found at start, not at the first image of a client."""
    from PIL import Image as PILImage

    try:
        reader.read(PILImage.new("RGB", SAMPLE))
    except Exception as error:
        values = json.dumps(overrides)
        raise SettingsError(f"--vision-config-overrides {values}: no image can be read so: {cause(error)}") from error
