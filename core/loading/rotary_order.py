"""The order of rotary pairs in a checkpoint. What `--rope-type` says.

Hugging Face's files keep the two entries of a pair half a head apart ("neox"), which is how our rotation takes them.
Meta's original files, and GGUF files of the Llama family, keep them side by side ("normal"): their rows are put in
order while they are loaded. Which rows to change was worked out from transformers' convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from maxserve.core.interfaces.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.core.interfaces.architecture import ModelSpec, WeightMap

_ROTATED = re.compile(r"(^|\.)(q_proj|k_proj|q_norm|k_norm)\.(weight|bias)$")


class Rope(Protocol):
    """What is known of a rotation."""

    @property
    def kind(self) -> str: ...
    def width(self, head_dim: int) -> int:
        """How many entries of a head are rotated."""
        ...


@runtime_checkable
class Rotates(Protocol):
    """A config of a model that rotates queries and keys by their positions, all heads alike."""

    @property
    def rope(self) -> Rope: ...
    @property
    def head_dim(self) -> int: ...


@runtime_checkable
class TakesPairs(Protocol):
    """A config of a model that may take the entries of a pair side by side, as all its checkpoints keep them."""

    @property
    def interleaved(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsApart:
    """Puts the rows of heads of `head_dim`, whose first `width` entries are rotated, from pairs side by side to apart.

    `renames` are those of the architecture's weight map: names are looked at as the model has them.
    """

    head_dim: int
    width: int
    renames: tuple[tuple[str, str], ...] = ()

    def changes(self, name: str) -> bool:
        """Whether the tensor of that name in the checkpoint has such rows."""
        return _ROTATED.search(self._ours(name)) is not None

    def check(self, names: Iterable[str]) -> None:
        """ModelError unless queries and keys are among the tensors of a checkpoint, each kind by itself."""
        found = {match[2] for name in names if (match := _ROTATED.search(self._ours(name)))}
        if not found >= {"q_proj", "k_proj"}:
            raise ModelError(
                "--rope-type normal: the checkpoint has no tensors q_proj and k_proj whose rows could be put in "
                "order; leave the option out, or convert the checkpoint"
            )

    def _ours(self, name: str) -> str:
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def __call__(self, tensor: Tensor) -> Tensor:
        """The rows [heads * head_dim, ...] in the order of halves."""
        heads = tensor.reshape(-1, self.head_dim, *tensor.shape[1:]).clone()
        pairs = heads[:, : self.width].reshape(len(heads), -1, 2, *tensor.shape[1:])
        heads[:, : self.width] = pairs.transpose(1, 2).flatten(1, 2)
        ordered: Tensor = heads.flatten(0, 1)
        return ordered


def rotary_order(rope_type: str | None, spec: ModelSpec, weights: WeightMap, architecture: str) -> PairsApart | None:
    """What `--rope-type` wants done with the rows of queries and keys; ModelError where it contradicts the model.

    `normal` and `neox` say how rows are ordered; `none`, `longrope` and `yarn` which rope the model must have.
    """
    if rope_type is None:
        return None
    flag = f"--rope-type {rope_type}"
    if not isinstance(spec, Rotates):
        if rope_type == "none":
            return None
        raise ModelError(
            f"{flag}: architecture {architecture} has no rotary positions, or does not say how they are; leave it out"
        )
    if rope_type in ("none", "longrope", "yarn") and spec.rope.kind != rope_type:
        raise ModelError(
            f"{flag}: the rope of this model is of type {spec.rope.kind!r} by its config.json, which decides; "
            "leave the option out"
        )
    if isinstance(spec, TakesPairs) and spec.interleaved:
        if rope_type == "neox":
            raise ModelError(f"{flag}: architecture {architecture} takes pairs side by side (normal); leave it out")
        return None
    if rope_type != "normal":
        return None
    return PairsApart(head_dim=spec.head_dim, width=spec.rope.width(spec.head_dim), renames=weights.renames)
