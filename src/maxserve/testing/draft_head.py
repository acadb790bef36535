"""Checks of heads that draft on top of a target.

class TestAcme(DraftHeadChecks):
    speculator = "mtp"

    def write_model(self, folder): ...
    def reference(self, folder): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.engine.drafting import Drafting
from maxserve.core.interfaces.request import Request
from maxserve.testing.served import GREEDY
from maxserve.testing.speculator import SpeculatorCases, SpeculatorChecks

__all__ = ["DraftHeadCases", "DraftHeadChecks", "DraftHeadQuirkChecks", "HeadReference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReference:
    """A head written once more, for whole texts: rows are positions 0 … n - 1 of one text.

    `states(ids)` [1, n + 1] are the target's hidden states, the embedding first, the normed one last; `combine` makes
    of them [n, dim] what the head reads, `forward(following, hidden)` what it computes there, all of it causal, and
    `logits` what it predicts, [rows, vocab_size] in the target's vocabulary.
    """

    states: Callable[[Tensor], Sequence[Tensor]]
    combine: Callable[[Sequence[Tensor]], Tensor]
    forward: Callable[[Tensor, Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def drafts(self, tokens: Tensor, most: int) -> tuple[list[int], Tensor]:
        """The likeliest drafts behind the tokens [n], and the logits [most, vocab_size] that they have."""
        hidden = self.combine([each[0, :-1] for each in self.states(tokens[None])])
        following, found = tokens[1:], []
        for _ in range(most):
            out = self.forward(following, hidden)
            found.append(self.logits(out[-1:]))
            hidden = torch.cat((hidden, out[-1:]))
            following = torch.cat((following, found[-1].argmax(-1)))
        return following[len(tokens) - 1 :].tolist(), torch.cat(found)


class DraftHeadCases(SpeculatorCases):
    """A head on a target, and the `reference` of its drafts, which is given the folder.

    A draft may differ where the reference has another token as likely, within `tolerance`.
    """

    tolerance: ClassVar[float] = 1e-3
    tokens: ClassVar[int] = 24
    prompts: ClassVar[Sequence[Sequence[int]]] = ([5, 6, 7] * 7, [9, 8], [5, 6, 7] * 7 + [11], list(range(3, 40)))

    def requests(self) -> list[Request]:
        return [replace(r, params=replace(r.params, max_tokens=self.tokens)) for r in super().requests()]

    def reference(self, folder: Path) -> HeadReference:
        raise NotImplementedError

    @pytest.fixture
    def proposed(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
        """What is proposed from now on for greedy requests: the known tokens, and the drafts behind them."""
        found: list[tuple[list[int], list[int]]] = []
        greedy = {request.id for request in self.requests() if request.params.fields == GREEDY}
        ask = Drafting._ask

        def recorded(drafting: Drafting, step: Any) -> Any:
            drafts = ask(drafting, step)
            pairs = [(s, d) for s, d in zip(step.sequences, drafts, strict=bool(drafts)) if d and s.id in greedy]
            found.extend((s.tokens.tolist(), list(d)) for s, d in pairs)
            return drafts

        monkeypatch.setattr(Drafting, "_ask", recorded)
        return found

    def differing(self, folder: Path, proposed: Sequence[tuple[list[int], list[int]]]) -> list[str]:
        """Of some of what was proposed, what the reference would not have."""
        reference, found = self.reference(folder), []
        for tokens, drafts in proposed[:: max(1, len(proposed) // 40)]:
            expected, logits = reference.drafts(torch.tensor(tokens), len(drafts))
            first = next((i for i, (a, b) in enumerate(zip(drafts, expected, strict=True)) if a != b), None)
            if first is not None and logits[first].max() - logits[first, drafts[first]] > self.tolerance:
                found.append(f"draft {first} behind {tokens} is {drafts[first]}, not {expected[first]}")
        return found


class DraftHeadChecks(DraftHeadCases, SpeculatorChecks):
    """Checks of a speculative method, and that its drafts are those of the `reference`."""

    @pytest.mark.parametrize("options", [{}, {"max_batch_input_tokens": 5}], ids=["whole prompts", "prompts in chunks"])
    def test_drafts_are_those_of_the_reference(
        self,
        served: Callable[..., Any],
        tmp_path: Path,
        proposed: list[tuple[list[int], list[int]]],
        options: dict[str, Any],
    ) -> None:
        engine = served(drafting=True, num_speculative_tokens=3, enable_prefix_caching=False, **options)
        self.texts(engine, self.requests())
        assert len(proposed) > 30
        assert self.differing(tmp_path / "target", proposed) == []

    @pytest.mark.parametrize("every", [3, 19])
    def test_drafts_are_those_of_the_reference_behind_steps_without_any(
        self,
        served: Callable[..., Any],
        tmp_path: Path,
        proposed: list[tuple[list[int], list[int]]],
        monkeypatch: pytest.MonkeyPatch,
        every: int,
    ) -> None:
        """A drafter need not compute at once what no drafts are wanted of."""
        steps, wanted = count(1), Drafting._wanted

        def seldom(drafting: Drafting, in_flight: Any, most: Any) -> Any:
            return wanted(drafting, in_flight, most if next(steps) % every == 0 else 0)

        monkeypatch.setattr(Drafting, "_wanted", seldom)
        engine = served(drafting=True, num_speculative_tokens=3, enable_prefix_caching=False)
        assert self.texts(engine, self.requests()) == self.texts(served(drafting=False), self.requests())
        assert proposed
        assert self.differing(tmp_path / "target", proposed) == []

    def test_prefixes_are_whole_but_for_their_last_entry(
        self, served: Callable[..., Any], tmp_path: Path, proposed: list[tuple[list[int], list[int]]]
    ) -> None:
        """What lies at the last position of a prefix was made of the token that followed there, in another text."""
        engine = served(drafting=True, num_speculative_tokens=3)
        requests = [replace(r, prompt=(*range(3, 40), *r.prompt)) for r in self.requests()]
        self.texts(engine, requests[:1])
        proposed.clear()
        self.texts(engine, requests)
        assert engine.stats().prefix_hits > 0
        assert len(self.differing(tmp_path / "target", proposed)) <= 0.4 * len(proposed[:: max(1, len(proposed) // 40)])


class DraftHeadQuirkChecks(DraftHeadCases):
    """What a variant of a head must pass that has passed `DraftHeadChecks`: one test, with prompts in chunks."""

    def test_drafts_and_texts_are_those_of_the_references(
        self, served: Callable[..., Any], tmp_path: Path, proposed: list[tuple[list[int], list[int]]]
    ) -> None:
        engine = served(drafting=True, num_speculative_tokens=3, enable_prefix_caching=False, max_batch_input_tokens=5)
        found = self.texts(engine, self.requests())
        assert proposed
        assert self.differing(tmp_path / "target", proposed) == []
        assert engine.stats().draft_tokens > 0
        assert found == self.texts(served(drafting=False), self.requests())
