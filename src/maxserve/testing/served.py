"""A whole engine without HTTP and without a tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maxserve.core.assembly.assemble import build_engine
from maxserve.core.config import resolve
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.companions import with_companions
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.protocol import Host

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.runtime.ranks import RankGroup

GREEDY = {"temperature": {"temperature": 0.0}}
# Chunks of prompts, answers beside them, pages of which a short prompt fills several.
CLOSE: Mapping[str, int] = {
    "max_batch_input_tokens": 16,
    "enable_in_flight_batching": True,
    "kv_cache_page_size": 16,
    "max_batch_size": 4,
    "enable_prefix_caching": True,
}


@dataclass(slots=True)
class Answer:
    """What one prompt was continued with; `cached` counts its tokens that were found in the prefix cache."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cached: int = 0
    error: str | None = None


def served_settings(folder: Path, host: Host, **options: Any) -> tuple[Settings, ModelFiles]:
    """The settings of a Served, and its model's files."""
    typed = {"model_path": str(folder), "devices": "cpu", **CLOSE, **options}
    if options.get("speculative_method"):
        typed.setdefault("adaptive_speculation", False)  # the same drafts in every run, whatever the machine does
    complete = partial(with_companions, host=host)
    settings = resolve(typed, environ={}, sections=host.plugin_sections(), complete=complete)
    return settings, resolve_model(settings.model, host, progress=NullProgress())


class Served:
    """The model of a folder in an engine of the host's plugins. Options are those of `max serve`, by Python names.

    With a `group`, the engine is that of the first of several ranks.
    """

    def __init__(self, folder: Path, host: Host, *, group: RankGroup | None = None, **options: Any) -> None:
        settings, files = served_settings(folder, host, **options)
        self.engine = build_engine(settings, host, files, progress=NullProgress(), group=group)
        self._ids = map(str, itertools.count())

    def answers(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        """Each prompt's likeliest continuation of so many tokens, all of them running at once."""
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=0, fields=GREEDY)
        answers = {next(self._ids): Answer() for _ in prompts}
        for id, prompt in zip(answers, prompts, strict=True):
            self.engine.add(Request(id=id, prompt=tuple(prompt), params=params))
        while self.engine.busy:
            for output in self.engine.next_outputs():
                answer = answers[output.id]
                answer.tokens += output.tokens
                answer.logprobs += [entry.logprob for entry in output.logprobs]
                answer.cached, answer.error = output.cached, output.error or answer.error
        return list(answers.values())


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reference continues a prompt with, how likely it finds that, and how near it came to something else."""

    tokens: list[int]
    logprobs: list[float]
    margin: float


def continuation(reference: nn.Module, prompt: Sequence[int], tokens: int) -> Expected:
    """The reference's likeliest continuation, token by token over its own cache."""
    chosen, logprobs, margin = [], [], float("inf")
    part: Tensor = torch.tensor([prompt])
    past: Any = None
    with torch.inference_mode():
        for _ in range(tokens):
            out = reference(part, past_key_values=past, use_cache=True)
            past, logits = out.past_key_values, out.logits[0, -1].double()
            best = logits.topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            chosen.append(int(best.indices[0]))
            logprobs.append(float(logits.log_softmax(dim=-1)[chosen[-1]]))
            part = best.indices[:1][None]
    return Expected(chosen, logprobs, margin)
