"""A smaller model that drafts (method `standalone`): any two models with one vocabulary.

It computes what the target computes, in pages of the same sequences, and draws on from there as the target would
(Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.speculator import DraftNeeds
from maxserve.interfaces.step_context import StepContext
from maxserve.plugins.speculation.options import DraftModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from maxserve.interfaces.inputs import StepInputs
    from maxserve.interfaces.speculator import DraftStep, NeedsContext, SpeculatorContext

    Ints = NDArray[np.int64]

log = logging.getLogger("maxserve.engine")

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
REMEMBERED = 4096  # sequences of which it is known how far they are computed


def needs(context: NeedsContext) -> DraftNeeds:
    """The draft model's own layers and weights; ModelError unless its tokens are the target's."""
    model = context.config(DraftModel)
    spec, folder = context.models.spec(model), context.models.folder(model)
    if any((Path(folder) / name).is_file() for name in TOKENIZERS):
        check_vocabulary(context, folder, model.model_path)
    elif spec.vocab_size != context.spec.vocab_size:
        raise ModelError(
            f"the draft model {model.model_path} has no tokenizer, and a vocabulary of {spec.vocab_size} tokens where "
            f"the target has {context.spec.vocab_size}; take a smaller model of the same family"
        )
    return DraftNeeds(layers=tuple(spec.cache_layers), weight_bytes=context.models.weight_bytes(model))


def check_vocabulary(context: NeedsContext, draft: str, ref: str) -> None:
    """ModelError unless the tokenizers of target and draft model give the same tokens the same ids."""
    files = [Path(folder) / "tokenizer.json" for folder in (context.path, draft)]
    if all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes():
        return
    ours, theirs = context.models.tokenizer(context.path), context.models.tokenizer(draft)
    shared = min(ours.vocab_size, theirs.vocab_size)
    for token in range(shared):
        if ours.token(token) != theirs.token(token):
            raise ModelError(
                f"the draft model {ref} has another vocabulary than the target: token {token} is "
                f"{theirs.token(token)!r} there and {ours.token(token)!r} here; take a smaller model of the same family"
            )


@dataclass(slots=True)
class Progress:
    """How far the draft model has computed a sequence, and where the target's last step on it ended."""

    computed: int
    seen: int


class StandaloneDrafter:
    """A Drafter."""

    def __init__(self, context: SpeculatorContext) -> None:
        settings = context.config(DraftModel)
        spec = context.models.spec(settings)
        self._model = context.models.load(settings)
        log.info("draft model: %s", settings.served_model_name or settings.model_path)
        self._attention = context.models.attention()
        self._vocab_size, self._max_length = spec.vocab_size, spec.max_length
        self._most = context.step_tokens
        self._device = context.device
        self._progress: OrderedDict[str, Progress] = OrderedDict()

    @torch.inference_mode()
    def propose(self, step: DraftStep) -> list[list[int]]:
        wanted = self._feasible(step)
        self._follow(step)
        drafts: list[list[int]] = [[] for _ in step.sequences]
        who = np.flatnonzero(wanted)
        logits = self._catch_up(step, wanted)
        ends = np.array([len(step.sequences[i].tokens) for i in who.tolist()], dtype=np.int64)
        for count in range(1, int(wanted.max(initial=0)) + 1):
            drawn = step.draw(who, logits).cpu().numpy()
            for i, token in zip(who.tolist(), drawn.tolist(), strict=True):
                drafts[i].append(token)
            on = wanted[who] > count
            who, ends, drawn = who[on], ends[on], drawn[on]
            if len(who):
                logits = self._run(step, who, ends, ends + 1, drawn)
                ends = ends + 1
        for i in np.flatnonzero(wanted).tolist():
            self._progress[step.sequences[i].id].computed += len(drafts[i]) - 1
        return drafts

    def _follow(self, step: DraftStep) -> None:
        """Computes what the target has computed where prompts are part of it, so that found prefixes are whole."""
        inputs = step.inputs
        starts = inputs.seq_lens - np.diff(inputs.query_start)
        if not (starts < inputs.prompt_lens).any() or int(inputs.seq_lens.max()) > self._max_length:
            return
        ids = torch.where(inputs.input_ids < self._vocab_size, inputs.input_ids, 0)
        # As in passes of its own, images and adapters are the target's alone.
        self._forward(
            replace(inputs, input_ids=ids, images=(), mrope_positions=None, bidirectional=(), adapter_rows=None)
        )
        rows = zip(step.sequences, starts.tolist(), step.kept.tolist(), strict=True)
        for sequence, start, kept in rows:
            known = self._known(sequence.id, start)
            if kept and known.computed >= start:
                known.computed = max(known.computed, start + kept)

    def _feasible(self, step: DraftStep) -> Ints:
        """What is wanted, within the positions that the draft model knows."""
        lengths = np.array([len(sequence.tokens) for sequence in step.sequences], dtype=np.int64)
        return np.where(lengths + step.wanted <= self._max_length, step.wanted, 0)

    def _catch_up(self, step: DraftStep, wanted: Ints) -> torch.Tensor:
        """Computes all known tokens of those who want drafts; returns the logits of what follows, [who want, ids]."""
        found: dict[int, torch.Tensor] = {}  # of a sequence that is in several passes, those of the last one
        logits = torch.empty(0)
        for part in self._passes(list(self._missing(step, wanted))):
            who, starts, stops = (np.array(column, dtype=np.int64) for column in zip(*part, strict=True))
            tokens = [step.sequences[i].tokens[start:stop] for i, start, stop in part]
            logits = self._run(step, who, starts, stops, np.concatenate(tokens))
            found.update(zip(who.tolist(), logits, strict=True))
        return logits if len(logits) == len(found) else torch.stack(list(found.values()))

    def _missing(self, step: DraftStep, wanted: Ints) -> Iterator[tuple[int, int, int]]:
        """Which tokens are to be computed, of those who want drafts."""
        inputs = step.inputs
        starts = inputs.seq_lens - np.diff(inputs.query_start)
        rows = zip(step.sequences, starts.tolist(), step.kept.tolist(), wanted.tolist(), strict=True)
        for i, (sequence, start, kept, drafts) in enumerate(rows):
            if not kept:
                continue
            known = self._known(sequence.id, start)
            known.computed, known.seen = min(known.computed, start + kept), start + kept
            stop = start + kept + 1
            if drafts:  # the others are computed when they want some
                yield i, known.computed, stop
                known.computed = stop

    def _known(self, id: str, start: int) -> Progress:
        """How far a sequence is; one whose pages are new is as far as the prefix that was found for it."""
        known = self._progress.get(id)
        if known is None or known.seen != start:
            known = self._progress[id] = Progress(start, start)
        self._progress.move_to_end(id)
        if len(self._progress) > REMEMBERED:
            self._progress.popitem(last=False)
        return known

    def _passes(self, missing: Iterable[tuple[int, int, int]]) -> Iterator[Sequence[tuple[int, int, int]]]:
        """The same in passes of no more tokens than a step of the target has."""
        part: list[tuple[int, int, int]] = []
        left = self._most
        for i, start, stop in missing:
            while start < stop:
                taken = min(stop - start, left)
                part.append((i, start, start + taken))
                start, left = start + taken, left - taken
                if not left:
                    yield part
                    part, left = [], self._most
        if part:
            yield part

    def _run(self, step: DraftStep, who: Ints, starts: Ints, stops: Ints, tokens: Ints) -> torch.Tensor:
        """The logits of the token after the last of each."""
        ids = torch.from_numpy(np.where(tokens < self._vocab_size, tokens, 0)).to(self._device)
        inputs = step.passes(who, starts, stops, ids)
        hidden = self._forward(inputs)
        return self._model.logits(hidden[inputs.logit_rows])

    def _forward(self, inputs: StepInputs) -> torch.Tensor:
        self._attention.begin(inputs)
        return self._model.forward(StepContext(inputs=inputs, attention=self._attention))
