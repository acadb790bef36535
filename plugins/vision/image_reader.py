"""Image processors of transformers.

They are the ones that need Pillow and nothing else: with torchvision the numbers would depend on what is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from maxserve.interfaces.errors import ModelError, SettingsError
from maxserve.interfaces.images import ImagesContext, ReadImage
from maxserve.loading import read_optional_object

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

_FLAG = "--vision-config-overrides"


class TransformersImages:
    """A ReadsImages over the processor in the model's folder; a subclass says in `described` what its model calls for.

    Images are processed one by one, so that one does not depend on the others of its prompt.
    """

    placeholder: str = ""
    renamed: ClassVar[Mapping[str, str]] = {}  # overrides that the processor knows by another name

    def __init__(self, context: ImagesContext) -> None:
        self.config = context.model
        self.vision: Mapping[str, Any] = context.model.get("vision_config") or {}
        self.tokenizer = context.tokenizer
        self.processor = self.build(context)
        self.options = read_optional_object(Path(context.path) / "processor_config.json")
        self._override(context.overrides)

    def build(self, context: ImagesContext) -> Any:
        """The image processor: the folder's, unless a subclass makes one of what config.json says."""
        return _processor(context.path)

    def read(self, image: PILImage) -> ReadImage:
        """What the processor makes of the image."""
        return self.described(self.made(image))

    def made(self, image: PILImage) -> dict[str, Any]:
        """The arrays that the processor makes of it."""
        return dict(self.processor(images=[image], return_tensors="np"))

    def described(self, made: dict[str, Any]) -> ReadImage:
        """The image, from the arrays the processor `made` of a single image."""
        raise NotImplementedError

    def token(self, *keys: str, default: str = "") -> str:
        """The token whose id config.json has under one of `keys`."""
        for key in keys:
            if isinstance(id := self.config.get(key), int):
                return self.tokenizer.token(id) or default
        return default

    def _override(self, overrides: Mapping[str, Any]) -> None:
        known = _vision_keys(self.config)
        unknown = [key for key in overrides if not (self.adjust(key, overrides[key]) or key in known)]
        if unknown:
            names = ", ".join(sorted({*known, *self.renamed, *self._attributes()}))
            raise SettingsError(f"{_FLAG}: this model knows no {', '.join(map(repr, unknown))}; it knows {names}")

    def adjust(self, key: str, value: Any) -> bool:
        """Gives the processor a value, where it has one of that name."""
        name = self.renamed.get(key, key)
        if name not in self._attributes():
            return False
        setattr(self.processor, name, value)
        return True

    def _attributes(self) -> set[str]:
        return {
            name for name in self.processor.to_dict() if not name.startswith("_") and name != "image_processor_type"
        }


def _processor(path: str) -> Any:
    """The folder's image processor, as the class of it that asks for nothing but Pillow."""
    import transformers

    auto: Any = transformers.AutoImageProcessor
    try:
        own = getattr(transformers, _class_name(path), None)
        return auto.from_pretrained(path, backend="pil") if own is None else own.from_pretrained(path)
    except Exception as error:  # whatever it stumbles over, the folder's processor is what is wrong
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: transformers finds no image processor there: {reason}") from error


def _class_name(path: str) -> str:
    """What transformers calls that class: the name in the folder's files, whichever implementation they mean by it."""
    nested = read_optional_object(Path(path) / "processor_config.json").get("image_processor")
    preprocessor = read_optional_object(Path(path) / "preprocessor_config.json") or nested
    name = str(preprocessor.get("image_processor_type", "")) if isinstance(preprocessor, Mapping) else ""
    return f"{name.removesuffix('Fast').removesuffix('Pil')}Pil" if name else ""


def _vision_keys(config: Mapping[str, Any]) -> set[str]:
    """What the vision part of such a config has of its own, whether config.json says it or not."""
    from transformers import AutoConfig, PreTrainedConfig

    whole = AutoConfig.for_model(str(config.get("model_type")))
    return {
        name for name in whole.vision_config.to_dict() if not name.startswith("_")
    } - PreTrainedConfig().to_dict().keys()
