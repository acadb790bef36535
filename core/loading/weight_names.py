"""The spellings under which checkpoints keep one parameter.

Who saved a part of a model, or a model within something else, left a prefix out or one too many. transformers drops or
adds the name of the base model where that makes a name known (`base_model_prefix`); the same is done here for every
prefix in use. What wraps modules while they are trained or compiled is never part of a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Modules that torch.compile, DDP, FSDP, activation checkpointing and PEFT put around others.
_WRAPPERS = re.compile(
    r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^(?:module\.)+|"
    r"^(?:module\.)*base_model\.model\.(?=.)"
)
_BASES = ("model.", "language_model.", "transformer.", "text_model.")
_ADDED = ("", "model.", "transformer.", "language_model.model.")
_DROPPED = 3


def unwrapped(name: str) -> str:
    """The name without what wraps the model or its modules."""
    before = None
    while name != before:
        before, name = name, _WRAPPERS.sub("", name)
    return name


def base_name(name: str) -> str:
    """The name without the names of base models in front."""
    while base := next((base for base in _BASES if name.startswith(base)), None):
        name = name.removeprefix(base)
    return name


def is_base(module: str) -> bool:
    """Whether models keep their language model in a module of that name."""
    return module + "." in _BASES


def spellings(name: str) -> Iterator[str]:
    """The name, and what it may be meant for, the likeliest first: fewer prefixes, then another one in front."""
    yield name
    rest = [name]
    while len(rest) <= _DROPPED and (base := next((base for base in _BASES if rest[-1].startswith(base)), None)):
        rest.append(rest[-1].removeprefix(base))
    for bare in rest:
        for prefix in _ADDED:
            if prefix + bare != name:
                yield prefix + bare
