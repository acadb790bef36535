"""Two speculative methods, the second for whom the first proposes nothing (method `cascade`).

Looking up costs microseconds and is right where texts repeat, a model drafts anywhere: `--cascade.first ngram
--cascade.then eagle`. Both are any methods, built as they would be alone, but no two that read `--draft-model-path`:
there is one draft model. One that follows the target is asked after every step, as it would be, with nothing wanted of
it where the other one has drafts: so its cache is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maxserve.interfaces.speculator import DraftNeeds, NeedsContext, Speculator
from maxserve.plugins.speculation.options import CascadeSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.component import Context, Declaration
    from maxserve.interfaces.speculator import Drafter, DraftStep, SpeculatorContext


def needs(context: NeedsContext) -> DraftNeeds:
    """What both methods need."""
    each = member_needs(context)
    return DraftNeeds(
        layers=tuple(layer for needed in each for layer in needed.layers),
        aux_layers=_all_aux_layers(each),
        weight_bytes=sum(needed.weight_bytes for needed in each),
    )


def member_needs(context: NeedsContext) -> list[DraftNeeds]:
    """What each of the methods needs, its layers behind those of the one before."""
    found: list[DraftNeeds] = []
    for entry in _members(context):
        layers = sum(len(needed.layers) for needed in found)
        own = replace(context, models=context.models.behind(layers))
        ref = entry.component.needs
        found.append(DraftNeeds() if ref is None else context.components.load(entry, ref)(own))
    return found


def _members(context: NeedsContext | SpeculatorContext) -> list[Declaration[Speculator]]:
    """The methods, in the order in which they are asked."""
    known = context.components.of(Speculator)
    return [known.get(name) for name in _names(context)]


def _names(context: Context) -> tuple[str, ...]:
    settings = context.config(CascadeSettings)
    return settings.first, settings.then or ""


def _all_aux_layers(needs: Sequence[DraftNeeds]) -> tuple[int, ...]:
    return tuple(sorted({layer for needed in needs for layer in needed.aux_layers}))


class Member:
    """One of the methods: its drafter, and which of the outputs that were kept are for it."""

    def __init__(self, drafter: Drafter, needed: DraftNeeds, all_aux_layers: Sequence[int]) -> None:
        self._drafter = drafter
        self._outputs = [all_aux_layers.index(layer) for layer in needed.aux_layers]
        self._follows = bool(needed.layers or needed.aux_layers)

    def propose(self, step: DraftStep, wanted: NDArray[np.int64]) -> Sequence[Sequence[int]]:
        """Its drafts of each sequence; none where it need not be asked."""
        if not (self._follows or wanted.any() or not step.kept.all()):
            return [()] * len(step.sequences)
        output = replace(step.output, aux_hidden=tuple(step.output.aux_hidden[index] for index in self._outputs))
        found = self._drafter.propose(replace(step, output=output, wanted=wanted.copy()))
        if len(found) != len(step.sequences):
            raise ValueError(f"propose returned drafts for {len(found)} sequences of {len(step.sequences)}")
        return found


class CascadeDrafter:
    """A Drafter."""

    def __init__(self, context: SpeculatorContext) -> None:
        needs = member_needs(
            NeedsContext(
                sections=context.sections,
                spec=context.spec,
                raw=context.models.checkpoint(None).config,
                path=context.path,
                draft_tokens=context.draft_tokens,
                models=context.models,
                components=context.components,
            )
        )
        self._members: list[Member] = []
        layers, aux_layers = 0, _all_aux_layers(needs)
        for entry, needed in zip(_members(context), needs, strict=True):
            own = replace(context, first_layer=context.first_layer + layers, models=context.models.behind(layers))
            self._members.append(Member(context.components.build(entry, own), needed, aux_layers))
            layers += len(needed.layers)

    def propose(self, step: DraftStep) -> list[Sequence[int]]:
        """Raises what the first method raised that failed, once all were asked: the others follow the target still."""
        drafts: list[Sequence[int]] = [()] * len(step.sequences)
        wanted, failure = step.wanted.copy(), None
        for member in self._members:
            try:
                found = member.propose(step, wanted)
            except Exception as error:
                failure = failure or error
                continue
            for i in np.flatnonzero(wanted).tolist():
                if len(found[i]):
                    drafts[i], wanted[i] = found[i][: int(wanted[i])], 0
        if failure is not None:
            raise failure
        return drafts
