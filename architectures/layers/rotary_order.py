"""The order of rotary pairs in a checkpoint: what `--rope-type` says.

Hugging Face's files keep the two entries of a pair half a head apart ("neox"), which is how our models apply rope.
Meta's original files, and GGUF files of the Llama family, keep them side by side ("normal"): their rows are put in
order while they are loaded. Which rows to change was worked out from transformers' convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxserve.interfaces.architecture import TensorChange
from maxserve.interfaces.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsApart:
    """Moves rows of heads of `head_dim`, whose first `width` entries are rotated, from pairs side by side to apart."""

    head_dim: int
    width: int

    def __call__(self, tensor: Tensor) -> Tensor:
        """The rows [heads * head_dim, ...] in the order of halves."""
        heads = tensor.reshape(-1, self.head_dim, *tensor.shape[1:]).clone()
        pairs = heads[:, : self.width].reshape(len(heads), -1, 2, *tensor.shape[1:])
        heads[:, : self.width] = pairs.transpose(1, 2).flatten(1, 2)
        return heads.flatten(0, 1)


def pairs_apart(head_dim: int, width: int) -> tuple[TensorChange, ...]:
    """The changes to a checkpoint with pairs side by side, of which it must have queries and keys."""
    absent = (
        "--rope-type normal: the checkpoint has no tensors q_proj and k_proj whose rows could be put in order; leave "
        "the option out, or convert the checkpoint"
    )
    apply = PairsApart(head_dim=head_dim, width=width)
    return tuple(
        TensorChange(names=names.format(part), apply=apply, absent=text)
        for part in "qk"
        for names, text in ((r"(^|\.){0}_proj\.(weight|bias)$", absent), (r"(^|\.){0}_norm\.(weight|bias)$", ""))
    )


def rotary_changes(
    rope_type: str, architecture: str, *, kind: str, head_dim: int, width: int, interleaved: bool
) -> tuple[TensorChange, ...]:
    """What `--rope-type` asks of a model with a rope of that `kind`; ModelError where it contradicts the model.

    `normal` and `neox` say how rows are ordered; `none`, `longrope` and `yarn` which rope the model must have. A model
    that is `interleaved` takes pairs side by side, as all its checkpoints have them.
    """
    flag = f"--rope-type {rope_type}"
    if rope_type in ("none", "longrope", "yarn") and kind != rope_type:
        raise ModelError(
            f"{flag}: the rope of this model is of type {kind!r} by its config.json, which decides; leave the option "
            "out"
        )
    if interleaved and rope_type == "neox":
        raise ModelError(f"{flag}: architecture {architecture} takes pairs side by side (normal); leave it out")
    if interleaved or rope_type != "normal":
        return ()
    return pairs_apart(head_dim, width)
