"""EAGLE heads on top of the target (method `eagle`), of the first and of the third kind.

EAGLE-1 (Li et al., arXiv 2401.15077) goes on from the target's last hidden state, EAGLE-3 (arXiv 2503.01840) from the
outputs of several of its layers. Drafts are chains; EAGLE-2, which drafts trees, has the weights of EAGLE-1.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from maxserve.interfaces.speculator import DraftNeeds
from maxserve.plugins.speculation.eagle_heads import Eagle3Head, read_head
from maxserve.plugins.speculation.heads import HeadDrafter
from maxserve.plugins.speculation.options import DraftModel

if TYPE_CHECKING:
    from maxserve.interfaces.speculator import DraftHead, NeedsContext, SpeculatorContext

log = logging.getLogger("maxserve.engine")


def needs(context: NeedsContext) -> DraftNeeds:
    """The layers and weights of the head, and the layers of the target that it reads; ModelError unless it fits."""
    model = context.config(DraftModel)
    head = _head(context)
    return DraftNeeds(
        layers=head.cache_layers,
        aux_layers=head.aux_layers,
        weight_bytes=context.models.head_bytes(model, head),
    )


def build(context: SpeculatorContext) -> HeadDrafter:
    """The drafter, its head with weights."""
    model, models = context.config(DraftModel), context.models
    head, checkpoint = _head(context), models.checkpoint(model)
    head.share(context.model)
    models.fill(model, head)
    if isinstance(head, Eagle3Head):
        name = next((name for name in checkpoint.tensors if name.rpartition(".")[2] == "d2t"), None)
        head.name_tokens(None if name is None else models.tensor(model, name), checkpoint.ref)
    head.prepare()
    log.info("draft head: %s", model.served_model_name or model.model_path)
    return HeadDrafter(head, context)


def _head(context: NeedsContext | SpeculatorContext) -> DraftHead:
    """The head without its weights."""
    checkpoint = context.models.checkpoint(context.config(DraftModel))
    return context.models.build(lambda: read_head(checkpoint, context.spec))
