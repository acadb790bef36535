"""The choice of a transformers class, from names alone: nothing is imported before it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.loading import ModelFolder

NAME = "transformers"  # as a model's "architectures" it stands for the class that goes with its model type
LANGUAGE_MODEL = "AutoModelForCausalLM"
ENDINGS = ("ForCausalLM", "LMHeadModel")
LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def refusal(folder: ModelFolder) -> str | None:
    """Why the model cannot be served; None if, by its config, it can."""
    try:
        _check_kind(folder.config)
        if not foreign(folder):
            known_class(folder.config)
    except ModelError as error:
        return str(error)
    return None


def foreign(folder: ModelFolder) -> bool:
    """Whether the model runs by code of its repository; ModelError if it would have to, but may not.

    Where transformers has a class of that name, the repository's own is not needed: it runs only where it is trusted.
    """
    code = _code(folder.config)
    if code is None or folder.trusted:
        return code is not None
    try:
        known_class(folder.config)
    except ModelError:
        raise ModelError(
            f"{_names(folder.config)[0]} is code of the model's own repository ({code}), and that runs only with "
            "--trust-remote-code: read it before you give the option"
        ) from None
    return False


def known_class(config: Mapping[str, Any]) -> str:
    """The name of the class in transformers; ModelError if there is none, or none for text."""
    import transformers

    names, module = _names(config), vars(transformers)
    there = [name for name in names if name in module or name in module["__all__"]]  # dir() takes 0.2 s
    for name in there:
        if name.endswith(ENDINGS):
            return name
    if there:
        raise ModelError(f"{there[0]} of transformers {transformers.__version__} is no causal language model of text")
    raise ModelError(f"transformers {transformers.__version__} has no class {names[0]}")


def _names(config: Mapping[str, Any]) -> list[str]:
    names = [str(name) for name in config.get("architectures") or ()]
    if names != [NAME]:
        return names
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(config.get("model_type"))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"transformers has no causal language model of type {kind!r}")
    found: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    return [found]


def _code(config: Mapping[str, Any]) -> str | None:
    """Where in the repository its class is, as "module.Class"."""
    places = config.get("auto_map")
    place = places.get(LANGUAGE_MODEL) if isinstance(places, Mapping) else None
    return None if place is None else str(place)


def _check_kind(config: Mapping[str, Any]) -> None:
    """Refuses what its config already tells cannot be served from a cache of keys and values alone."""
    if config.get("quantization_config"):
        raise ModelError("its weights are quantized, and only unquantized ones can be loaded")
    if config.get("is_encoder_decoder"):
        raise ModelError("it has an encoder beside its decoder, and only decoders can be served")
    kinds = config.get("layer_types")
    others = set(map(str, kinds)) - LAYER_TYPES if isinstance(kinds, list) else set()
    if others:
        raise ModelError(f"it has layers that are not attention ({', '.join(sorted(others))}) and keep a state")
