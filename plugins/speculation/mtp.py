"""Layers of a checkpoint that predict further tokens (method `mtp`, multi-token prediction).

They are in the target's own checkpoint, or were exported to a folder of their own, `--draft-model-path`. Which they
are is the architecture's to say, its `draft_head`. Where there are several, the first is used again and again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.speculator import DraftNeeds
from maxserve.plugins.speculation.heads import HeadDrafter
from maxserve.plugins.speculation.options import DraftModel

if TYPE_CHECKING:
    from maxserve.interfaces.architecture import ModelSpec
    from maxserve.interfaces.model_source import Checkpoint
    from maxserve.interfaces.speculator import DraftHead, DraftModels, NeedsContext, SpeculatorContext

log = logging.getLogger("maxserve.engine")


def needs(context: NeedsContext) -> DraftNeeds:
    """The layers and weights of the head; ModelError where there is none, or one for another target."""
    model = _where(context.config(DraftModel))
    head = read_head(context.models, model, context.spec)
    return DraftNeeds(
        layers=head.cache_layers,
        aux_layers=head.aux_layers,
        weight_bytes=context.models.head_bytes(model, head),
    )


def offers(context: NeedsContext) -> str | None:
    """Whether the target's checkpoint has layers that predict further tokens."""
    found = context.models.head(None, context.spec)
    return None if found is None else "the checkpoint has layers that predict further tokens"


def read_head(models: DraftModels, model: Checkpoint | None, target: ModelSpec) -> DraftHead:
    """The head without its weights; ModelError where there is none."""
    head = models.head(model, target)
    if head is not None:
        return head
    checkpoint = models.checkpoint(model)
    classes = ", ".join(map(str, checkpoint.config.get("architectures") or ())) or "without a class"
    raise ModelError(
        f"--speculative-method mtp: {checkpoint.ref} ({classes}) has no layers that predict further tokens, or none "
        "that are known; name another method, or their own checkpoint with --draft-model-path"
    )


def build(context: SpeculatorContext) -> HeadDrafter:
    """The drafter, its head with weights."""
    model = _where(context.config(DraftModel))
    head = read_head(context.models, model, context.spec)
    head.share(context.model)
    context.models.fill(model, head)
    head.prepare()
    log.info("draft head: %s", context.models.checkpoint(model).ref)
    return HeadDrafter(head, context)


def _where(draft: DraftModel) -> DraftModel | None:
    """The checkpoint of the head, None for the target's."""
    return draft if draft.model_path else None
