"""An engine whose model is a hash of everything its sequence put into the cache.

The next token depends on every token of the history, read back through the page tables. A page lost, shared with
the wrong sequence or written to the wrong slot therefore changes the text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.assembly.assemble import build_pipeline
from maxserve.core.assembly.grouped_attention import GroupedAttention
from maxserve.core.assembly.no_adapters import no_adapters
from maxserve.core.assembly.params import ParamsReader, request_params
from maxserve.core.engine.drafting import Drafting
from maxserve.core.engine.draw import Pipeline, Stage
from maxserve.core.engine.grammar import GrammarManager
from maxserve.core.engine.inputs import InputsBuilder
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.overlap import DeviceQueue, ThreadQueue
from maxserve.core.engine.parts import Parts
from maxserve.core.interfaces.cache import CacheContext, CacheGroup, CacheLayer
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.request import Output
from maxserve.core.interfaces.runner import RunnerContext
from maxserve.core.interfaces.sampler import SamplerContext
from maxserve.core.interfaces.scheduler import Limits, SchedulerContext
from maxserve.core.registry.entries import load_ref
from maxserve.core.registry.protocol import Host
from maxserve.plugins.cache import maxserve_cache_strategies
from maxserve.plugins.runners.eager import EagerRunner
from maxserve.plugins.schedulers import maxserve_schedulers
from maxserve.plugins.schedulers.tts import Config
from maxserve.samplers.temperature import Temperature, TemperatureTransform
from maxserve.scheduling import WorkCost
from maxserve.testing.simulation import KnownCost
from maxserve.testing.speculator import ScriptedDrafter

VOCAB = 211
EOS = 7


def next_token(history: Sequence[int]) -> int:
    """What the hashing model continues a history with."""
    total = sum((i + 1) * (t + 3) for i, t in enumerate(history))
    return (total * 31 + 17) % VOCAB


class HashAttention:
    """Of one layer, whose tokens see what lies after `group.low`."""

    def __init__(self, cache: Any, page_size: int, group: CacheGroup | None = None) -> None:
        self._group = group or CacheGroup(layers=(0,))
        self._keys = cache.layers[self._group.layers[0]].keys.view(-1)
        self._page_size = page_size

    def begin(self, inputs: Any) -> None:
        pass

    def attend(self, layer: int, q: Any, k: Any, v: Any, inputs: Any, *others: Any) -> torch.Tensor:
        self._keys[inputs.slot_mapping] = k.view(-1)
        found = []
        for i, length in enumerate(inputs.seq_lens.tolist()):
            count, low = int(inputs.query_start[i + 1] - inputs.query_start[i]), self._group.low
            first = low(length - count)
            positions = np.arange(first, length)
            slots = inputs.block_tables[i][positions // self._page_size].astype(np.int64) * self._page_size
            history = [int(t) for t in self._keys[torch.from_numpy(slots + positions % self._page_size)].tolist()]
            ends = range(length - count + 1, length + 1)
            found += [next_token(history[low(end - 1) - first : end - first]) for end in ends]
        return torch.tensor(found)


class HashModel:
    nan_after: int | None = None
    layers = 1

    def forward(self, step: Any) -> torch.Tensor:
        k = step.inputs.input_ids.to(torch.float32)[:, None, None]
        seen = step.attend(0, k, k, k)
        for layer in range(1, self.layers):
            seen = (seen + step.attend(layer, k, k, k)) % VOCAB
        return seen

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.one_hot(hidden, VOCAB).to(torch.float32) * 9.0
        return logits if self.nan_after is None else torch.where(hidden[:, None] > self.nan_after, torch.nan, logits)


def component(found: Any, name: str) -> Any:
    return next(c for c in found if c.name == name)


def drafting_of(drafter: Any, draft_tokens: int, vocab_size: int = VOCAB, *, rolls_back: bool = True) -> Drafting:
    return Drafting(
        drafter,
        title="speculator 'test'",
        draft_tokens=draft_tokens,
        vocab_size=vocab_size,
        rolls_back=lambda name: rolls_back,
    )


def read_temperature(fields: Mapping[str, Mapping[str, Any]]) -> dict[type[Any], Any]:
    return {Temperature: Temperature(**fields.get("temperature", {}))}


def recalling(texts: dict[str, list[int]], wrong: float, vocab_size: int = VOCAB) -> ScriptedDrafter:
    """Knows the texts, and says something else with a probability of `wrong`."""
    random_numbers = random.Random(0)

    def drafts(sequence: Any, wanted: int) -> list[int]:
        text = texts[sequence.id][len(sequence.tokens) - sequence.prompt_length :][:wanted]
        return [token if random_numbers.random() >= wrong else random_numbers.randrange(vocab_size) for token in text]

    return ScriptedDrafter(drafts)


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Makes engines, which are recounted and closed when the test is over."""
    made: list[Engine] = []

    def make(
        *,
        pages: int = 64,
        page_size: int = 16,
        rows: int = 8,
        max_length: int = 200,
        tokens: int = 64,
        chunked: bool = True,
        in_flight: bool = False,
        mixed_step: float | None = None,
        total: int | None = None,
        scheduler: str = "continuous",
        tts: Config | None = None,
        policy: Any = None,
        model: Any = None,
        failure_percent: float = 0.0,
        steps: int = 1,
        overlap: bool | type[DeviceQueue] = False,
        empty: bool = False,
        stages: Sequence[Stage] = (),
        groups: tuple[CacheGroup, ...] = (),
        drafter: Any = None,
        draft_tokens: int = 4,
        share: bool = True,
        vocab: int = VOCAB,
        samplers: Host | None = None,
        grammars: GrammarManager | None = None,
        on_lost_pages: Callable[[int, int], object] = lambda count, total: None,
    ) -> Engine:
        device = torch.device("cpu")
        declared, tts = component(maxserve_schedulers(), scheduler), tts or Config()
        limits = Limits(
            max_batch_size=rows,
            max_batch_input_tokens=tokens,
            max_batch_total_tokens=total,
            max_length=max_length if groups else min(max_length, pages * page_size),
            page_size=page_size,
            pages=pages,
            chunked_prefill=chunked and declared.chunks_prompts,
            in_flight_batching=in_flight,
            mixed_step_seconds=mixed_step,
            max_started=tts.max_queue_size_tg,
            page_bounds=tuple(group.most_pages(page_size, 2 * tokens) for group in groups) or (None,),
        )
        strategy = component(maxserve_cache_strategies(), "paged")
        cache = load_ref(strategy.build)(
            CacheContext(
                layers=(CacheLayer(kv_heads=1, head_dim=1),) * max(1, len(groups)),
                pages=pages,
                page_size=page_size,
                rows=limits.rows,
                max_length=limits.max_length,
                dtype=torch.float32,
                device=device,
                groups=groups,
                share_prefixes=share,
            )
        )
        parts = [HashAttention(cache, page_size, group) for group in groups] or [HashAttention(cache, page_size)]
        model = model or HashModel()
        model.layers = len(parts)
        context = SamplerContext(vocab_size=vocab, device=device)
        temperature = Stage.of("temperature", TemperatureTransform(), keeps_argmax=True)
        pipeline, reader = Pipeline([*stages, temperature], device), read_temperature
        if samplers is not None:
            pipeline = build_pipeline(samplers, context)
            reader = ParamsReader(request_params(samplers), vocab_size=vocab).read
        engine = Engine(
            Parts(
                info=ModelInfo(
                    name="hash",
                    path="",
                    architecture="Hash",
                    max_length=limits.max_length,
                    vocab_size=vocab,
                    eos_token_ids=(EOS,),
                    dtype="float32",
                    device="cpu",
                    parameters=0,
                    max_batch_size=8,
                    created=0,
                ),
                limits=limits,
                cache=cache,
                policy=policy or load_ref(declared.build)(SchedulerContext(limits=limits, sections={Config: tts})),
                policy_name="test" if policy else scheduler,
                builder=InputsBuilder(
                    cache, page_size, device, block_tables=cache.group_block_tables if len(groups) > 1 else None
                ),
                runner=EagerRunner(
                    RunnerContext(
                        model=model,
                        attention=GroupedAttention(parts, groups) if len(groups) > 1 else parts[0],
                        vocab_size=vocab,
                        device=device,
                    )
                ),
                pipeline=pipeline,
                read_params=reader,
                adapters=no_adapters(),
                grammars=GrammarManager() if grammars is None else grammars,
                max_steps=steps,
                device_queue=(ThreadQueue if overlap is True else overlap)() if overlap else None,
                cost=WorkCost() if mixed_step is None else KnownCost(),
                drafting=drafter and drafting_of(drafter, draft_tokens, vocab),
                empty_steps=empty,
                failure_percent=failure_percent,
                check_when_idle=True,
                on_lost_pages=on_lost_pages,
                random=random.Random(0),
            )
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.check()
        engine.close()


@pytest.fixture
def run() -> Callable[..., dict[str, list[Output]]]:
    """Steps an engine until it is idle, recounting after each step; the outputs by request."""

    def run(engine: Engine, *, steps: int = 5000) -> dict[str, list[Output]]:
        outputs: dict[str, list[Output]] = {}
        for _ in range(steps):
            if not engine.busy:
                return outputs
            for output in engine.next_outputs():
                outputs.setdefault(output.id, []).append(output)
            engine.check()
        raise AssertionError("the engine does not come to an end")

    return run
