"""Who reads the pictures for a model?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.core.errors import PluginError
from maxserve.core.interfaces import ImagesContext, ReadsImages

if TYPE_CHECKING:
    from maxserve.core.host import Host
    from maxserve.core.model.resolve import ModelFiles
    from maxserve.core.model.tokenizer import Tokenizer
    from maxserve.core.settings import Settings


def image_reader(settings: Settings, host: Host, files: ModelFiles, tokenizer: Tokenizer) -> ReadsImages | None:
    """What the model's architecture says; None for one that takes text only."""
    entry = host.architectures.get(files.architecture)
    if entry.component.images is None:
        return None
    context = ImagesContext(
        sections=host.section_values(settings),
        path=files.path,
        config=files.config,
        tokenizer=tokenizer,
        overrides=settings.model.vision_config_overrides,
    )
    reader: ReadsImages = host.load(entry, entry.component.images)(context)
    if not reader.placeholder:
        raise PluginError(f"{entry.title}: its `images` must say what the chat template writes where an image stands")
    return reader
