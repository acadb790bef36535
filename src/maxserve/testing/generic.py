"""Checks of an architecture by what it is for, on a tiny model of its family.

In a file of tests, `globals().update(generic_checks(architecture))` makes a class of every model class of transformers
that the architecture serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.engine import EMBEDDINGS, SCORING, TEXT
from maxserve.core.registry.entries import load_ref, plain
from maxserve.testing.architecture import ArchitectureChecks
from maxserve.testing.encoder import EncoderChecks
from maxserve.testing.tiny_configs import model_class, tiny_config


class TextChecks(ArchitectureChecks):
    """The checks of models that continue texts; `hf_class` is transformers' own."""

    hf_class: ClassVar[str]

    @classmethod
    def attributes(cls, architecture: Architecture, hf_class: str) -> Mapping[str, Any]:
        """What a class of these checks has that is about one model class."""
        return {
            "architecture": architecture.name,
            "hf_class": hf_class,
            "hf_configs": {hf_class: lambda: tiny_config(hf_class)},
        }

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        """The whole model, to be saved; of one that takes images the part that continues texts answers."""
        model: nn.Module = model_class(cls.hf_class)._from_config(hf_config, attn_implementation="eager")
        text = dict(model.named_children()).get("language_model")
        if text is not None and "lm_head" in dict(text.named_children()):
            model.forward = text.forward
        return model


class TextEncoderChecks(EncoderChecks):
    """The checks of models that encode texts, for embeddings or scores; `hf_class` is transformers' own."""

    hf_class: ClassVar[str]

    @classmethod
    def attributes(cls, architecture: Architecture, hf_class: str) -> Mapping[str, Any]:
        """What a class of these checks has that is about one model class."""
        config = tiny_config(hf_class)
        if architecture.task == SCORING:
            config.num_labels = 1
        return {"architecture": architecture.name, "hf_class": hf_class, "hf_configs": {hf_class: config}}

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        model: nn.Module = model_class(cls.hf_class)._from_config(hf_config, attn_implementation="eager")
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the architectures that it `takes` are checked: `checks` is "module:class" with a method `attributes`.

    Without `checks` nothing can be made of a name alone, and `instead` says what to do.
    """

    takes: Callable[[Architecture], bool]
    checks: str = ""
    instead: str = ""


WAYS: tuple[Way, ...] = (  # the first that takes an architecture counts
    Way(
        takes=lambda each: each.images is not None,
        instead="takes images: subclass VisionChecks and give it the family's processor and tokens",
    ),
    Way(takes=lambda each: each.task == "text_generation", checks="maxserve.testing.generic:TextChecks"),
    Way(takes=lambda each: each.task in (EMBEDDINGS, SCORING), checks="maxserve.testing.generic:TextEncoderChecks"),
)


def generic_checks(architecture: Architecture, classes: Sequence[str] = ()) -> dict[str, type[Any]]:
    """Test classes by name, one for each model class of transformers that the architecture serves.

    `classes` says which those are where its name and aliases do not, as for one that serves what no other does.
    LookupError where nothing is known to compare it with: neither can the checks be chosen nor a model be made.
    """
    way = next((way for way in WAYS if way.takes(architecture)), None)
    if way is None:
        raise LookupError(f"no checks are known for the task {architecture.task!r} of {architecture.name}")
    if not way.checks:
        raise LookupError(f"{architecture.name} {way.instead}")
    checks: Any = load_ref(way.checks)
    suffix = "" if architecture.task == TEXT else "As" + architecture.name  # a class may serve two architectures
    return {
        f"Test{name}{suffix}": type(f"Test{name}{suffix}", (checks,), dict(checks.attributes(architecture, name)))
        for name in classes or served_classes(architecture)
    }


def served_classes(architecture: Architecture) -> list[str]:
    """The model classes of transformers whose checkpoints the architecture takes: its name and aliases."""
    names = dict.fromkeys(plain(name) for name in (architecture.name, *architecture.aliases))
    known = []
    for name in names:
        try:
            model_class(name)
        except LookupError:
            continue  # an alias of old checkpoints; the name itself must be there
        known.append(name)
    if not known:
        model_class(architecture.name)  # says what is missing
    return known
