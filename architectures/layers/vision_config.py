"""The config of vision-language models, read with transformers, whose classes know what config.json leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from maxserve.architectures.layers.config import ModelConfig
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import ModelError
from maxserve.loading import NeedsRoom

FEATURES_KEPT = 256 << 20  # bytes of features that stay for images seen lately
_PIXELS = 1 << 21  # of a large image, whole or in tiles
_VALUES_PER_PATCH = 20  # as many for each of the width of a tower as memory.py counts for a token

# Keys of transformers' configs that say nothing about a text model's computation.
_OTHER_THINGS = frozenset({"architectures", "quantization_config"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """A language model and the tower beside it; a ModelSpec. `whole` is transformers' config of both.

    `bidirectional`: the tokens of an image see each other.
    """

    text: ModelConfig
    whole: Any
    bidirectional: bool = False

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def dim(self) -> int:
        return self.text.dim

    @property
    def max_length(self) -> int:
        return self.text.max_length

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        layers = self.text.cache_layers
        return tuple(replace(layer, bidirectional=True) for layer in layers) if self.bidirectional else layers

    @property
    def prompt_regimes(self) -> tuple[int, ...]:
        return self.text.prompt_regimes

    @property
    def tied(self) -> bool:
        return self.text.tied

    @property
    def layer_values(self) -> int:
        """As many as those of the language model."""
        return self.text.layer_values if isinstance(self.text, NeedsRoom) else 0

    @property
    def image_values(self) -> int:
        """Values that the tower needs for an image of two million pixels, in patches and perhaps in tiles."""
        tower = self.whole.vision_config
        patch = tower.patch_size if isinstance(tower.patch_size, int) else max(tower.patch_size)
        return _VALUES_PER_PATCH * int(tower.hidden_size) * (_PIXELS // patch**2)

    @property
    def features_kept(self) -> int:
        """Bytes of features of images seen lately."""
        return FEATURES_KEPT


def vision_config(
    raw: Mapping[str, Any], readers: Mapping[str, Callable[[Mapping[str, Any]], ModelConfig]]
) -> VisionConfig:
    """The config in `raw`; `readers` are the functions that read its text part, by model type of that part."""
    from transformers import AutoConfig, PreTrainedConfig

    model_type = str(raw.get("model_type"))
    try:
        whole = AutoConfig.for_model(model_type, **{k: v for k, v in raw.items() if k != "model_type"})
        text = whole.get_text_config().to_dict()
    except Exception as error:  # transformers' classes raise whatever they stumble over
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"config.json: transformers does not read it as {model_type!r}: {reason}") from error
    if not isinstance(getattr(whole, "vision_config", None), PreTrainedConfig):
        raise ModelError(
            f"config.json: model type {model_type!r} is of text only, and the architecture is a vision-language one; "
            "is it the type of the text part?"
        )
    kind = str(text.get("model_type"))
    if kind not in readers:
        raise ModelError(
            f"config.json: its text part is a {kind!r}, which is not served here; {', '.join(readers)} are"
        )
    fields = {key: value for key, value in text.items() if key not in _OTHER_THINGS}
    config = readers[kind]({**fields, "tie_word_embeddings": bool(whole.tie_word_embeddings)})
    return VisionConfig(text=config, whole=whole)
