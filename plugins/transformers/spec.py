"""What the engine must know of a transformers model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import MaxserveError, ModelError
from maxserve.loading import ModelFolder
from maxserve.plugins.transformers.choice import LANGUAGE_MODEL, foreign, known_class
from maxserve.plugins.transformers.seam import NAME, Call, register
from maxserve.plugins.transformers.tracing import Trace, trace
from maxserve.registry import cause

LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
EXTRAS = ("output_router_logits", "output_attentions", "output_hidden_states")  # what a config may ask for, unasked


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A class and the config to make it of."""

    cls: type[nn.Module]
    config: Any

    def ours(self) -> Any:
        """A config by which models attend with the function registered here."""
        register()
        config = copy.deepcopy(self.config)
        config._attn_implementation = NAME
        return config

    def make(self) -> Any:
        """The model; ModelError if it cannot be made."""
        try:
            model: Any = self.cls(self.ours())
        except MaxserveError:
            raise
        except Exception as error:  # the class is not ours: whatever it raises is about this config
            raise ModelError(
                f"transformers cannot make a {self.cls.__name__} of this config: {cause(error)}"
            ) from error
        return model.eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A ModelSpec, and how to make the model. `calls` are those of its attention, `trunk` all of it but the head.

    `swaps`: its projections and tables may be replaced by the core's; `by_row` are those called with a row per token.
    """

    source: Source
    vocab_size: int
    dim: int
    max_length: int
    calls: tuple[Call, ...]
    trunk: str
    swaps: bool
    prompt_regimes: tuple[int, ...]
    by_row: frozenset[str] = frozenset()

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        return tuple(call.cache_layer() for call in self.calls)


def read(folder: ModelFolder) -> Spec:
    """The spec of the model in a folder; ModelError saying why it cannot be served."""
    return spec_of(_source(folder))


def spec_of(source: Source) -> Spec:
    """The spec of what a class makes of a config; ModelError as above."""
    name, config = source.cls.__name__, source.config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} has an encoder beside its decoder, and only decoders can be served")
    if getattr(source.cls, "_is_stateful", False):
        raise ModelError(f"{name} keeps a state besides keys and values, which this cache does not hold")
    length = _length(config)
    found: Trace = trace(source, length)
    return Spec(
        source=source,
        vocab_size=found.vocab_size,
        dim=found.dim,
        max_length=length,
        calls=found.calls,
        trunk=found.trunk,
        swaps=found.swaps,
        by_row=found.by_row,
        prompt_regimes=tuple(border for border in found.borders if border < length),
    )


def _source(folder: ModelFolder) -> Source:
    raw = dict(folder.config)
    if foreign(folder):
        cls, config = _foreign_class(folder, raw)
    else:
        import transformers

        cls = getattr(transformers, known_class(raw))
        config = cls.config_class
    try:
        read = config.from_dict(raw)
    except Exception as error:  # the class is not ours
        raise ModelError(f"{cls.__name__} does not take this config.json: {cause(error)}") from error
    read.name_or_path = folder.path
    for extra in EXTRAS:
        if getattr(read, extra, False):
            setattr(read, extra, False)
    return Source(cls=cls, config=read)


def _foreign_class(folder: ModelFolder, raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """The repository's own class and the class of its config. Its code runs here, and nowhere before."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    places = raw["auto_map"]
    try:
        cls: Any = get_class_from_dynamic_module(places[LANGUAGE_MODEL], folder.path)
        own = places.get("AutoConfig")
        config = cls.config_class if own is None else get_class_from_dynamic_module(own, folder.path)
    except Exception as error:  # the code is not ours
        raise ModelError(f"the code of the model's repository cannot be loaded: {cause(error)}") from error
    return cls, config


def _length(config: Any) -> int:
    for key in LENGTHS:
        length = getattr(config, key, None)
        if isinstance(length, int) and length > 0:
            return length
    raise ModelError(f"its config does not say how many positions it was made for; looked for: {', '.join(LENGTHS)}")
