"""Drafters that need no weights: stubs for the seam, and what a speculative method is tried with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.speculator import DraftSequence, DraftStep, Speculator, SpeculatorContext

__all__ = ["RepeatingDrafter", "ScriptedDrafter", "repeating_speculator"]


class RepeatingDrafter:
    """A Drafter. Proposes each sequence's last tokens once more, as many as it may."""

    def __init__(self, context: SpeculatorContext) -> None:
        self._most = context.draft_tokens

    def propose(self, step: DraftStep) -> list[list[int]]:
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [sequence.tokens[-self._most :][:wanted].tolist() if wanted else [] for sequence, wanted in pairs]


@dataclass(slots=True)
class ScriptedDrafter:
    """A Drafter. Proposes what a function says of a sequence, and keeps the steps that it saw."""

    drafts: Callable[[DraftSequence, int], Sequence[int]]
    seen: list[DraftStep] = field(default_factory=list)

    def propose(self, step: DraftStep) -> list[Sequence[int]]:
        self.seen.append(step)
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self.drafts(sequence, wanted) for sequence, wanted in pairs]


def repeating_speculator(name: str = "repeating") -> SimpleNamespace:
    """A plugin with a speculative method of that name."""
    declared = Speculator(name=name, build=RepeatingDrafter, summary="the last tokens once more")
    return SimpleNamespace(maxserve_speculators=hookimpl(lambda: [declared]))
