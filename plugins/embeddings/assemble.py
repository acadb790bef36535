"""Puts the engine of a model that encodes texts together: for embeddings, and for scores of pairs."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from maxserve.interfaces.engine import SCORING, EngineContext, EngineOptions, ModelInfo
from maxserve.interfaces.errors import ModelError, PluginError, SettingsError
from maxserve.interfaces.request import EncodeRequest
from maxserve.layers import Encoder, Scorer
from maxserve.loading import (
    activation_bytes,
    free_memory,
    size_text,
)
from maxserve.plugins.embeddings.engine import EncoderEngine, EncoderParts, Finish
from maxserve.plugins.embeddings.options import EmbeddingsOptions
from maxserve.plugins.embeddings.pooling import Pooling, Scoring
from maxserve.plugins.embeddings.sentence import Recipe, read_recipe
from maxserve.plugins.embeddings.text_attention import WithinTexts
from maxserve.plugins.embeddings.vector_info import vector_info

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.architecture import ModelSpec

log = logging.getLogger("maxserve.engine")

# Larger steps of a CPU do hardly more work per second, and requests that come meanwhile wait for them.
STEP_WORK = 20e9  # multiplications and additions: some tenths of a second
LEAST_TOKENS, MOST_TOKENS = 128, 1024
STEP_TEXTS = 256


def build(context: EngineContext) -> EncoderEngine:
    """An engine that is ready to serve: weights loaded and a text encoded to warm up."""
    loader, files, spec = context.model, context.files, context.model.spec
    if files.task == SCORING:
        module = loader.build(Scorer, "prepare, forward and scores")
    else:
        module = loader.build(Encoder, "prepare and forward")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    tokens = step_tokens(context.options, spec, parameters, loader.device)
    adapters = loader.adapters(module)
    _check_memory(context, module, tokens, 0 if adapters is None else adapters.memory)
    recipe = read_recipe(Path(files.path), causal=bool(spec.cache_layers))
    loader.fill(module, _max_length(context.options, recipe, spec))
    model = cast("Encoder", module)  # it is both, which was checked when it was built
    info = _info(context, recipe, parameters, {} if adapters is None else adapters.sources)
    if info.name in info.adapters:
        raise SettingsError(f"an adapter has the name {info.name!r}, which is the model's; give it another one")
    context.progress.phase("Warming up")
    parts = EncoderParts(
        info=info,
        model=model,
        attention=WithinTexts(spec.cache_layers),
        finish=_finish(context, model, recipe),
        device=loader.device,
        max_tokens=tokens,
        max_texts=info.max_batch_size,
        failure_percent=context.options.failure_percent,
        random=random.Random(),
        adapters=adapters,
    )
    engine = EncoderEngine(parts)
    warm_up(engine)
    return engine


def step_tokens(options: EngineOptions, spec: ModelSpec, parameters: int, device: torch.device) -> int:
    """Tokens of a step: as chosen, else, on a CPU, as many as are `STEP_WORK` in a model of so many parameters."""
    tokens = options.max_batch_input_tokens
    if "max_batch_input_tokens" in options.chosen or device.type != "cpu":
        return tokens
    multiplied = max(1, parameters - spec.vocab_size * spec.dim)  # the table of words is only looked up in
    return min(tokens, max(LEAST_TOKENS, min(MOST_TOKENS, int(STEP_WORK / (2 * multiplied)))))


def _check_memory(context: EngineContext, module: torch.nn.Module, tokens: int, adapters: int) -> None:
    """ModelError when weights, slots of adapters and a step do not fit into the share of memory that may be used."""
    loader, spec, device = context.model, context.model.spec, context.model.device
    free = free_memory(device.type, device.index or 0)
    usable = int(free * context.options.memory_share)
    weights = loader.weight_bytes(module)
    longest = max(tokens, spec.max_length)
    activations = activation_bytes(spec, tokens=longest, rows=0, itemsize=loader.compute.itemsize)
    slots = f", slots of adapters {size_text(adapters)}" if adapters else ""
    log.info(
        "memory: %s free on %s, weights %s%s, activations %s (estimated); steps of %d tokens",
        *(size_text(free), device.type, size_text(weights), slots, size_text(activations), tokens),
    )
    if weights + adapters + activations > usable:
        needed = f"weights {size_text(weights)}{slots} and activations {size_text(activations)}"
        raise ModelError(
            f"the model does not fit: {needed} need more than the {size_text(usable)} that may be used of the "
            f"{size_text(free)} free on {device.type}; free some memory, lower --max-batch-input-tokens, raise "
            "--device-memory-utilization, or take a smaller model"
        )


def _finish(context: EngineContext, model: Encoder, recipe: Recipe) -> Finish | None:
    """What makes one vector, or the score, of a text."""
    if context.files.task == SCORING:
        return Scoring(cast("Scorer", model).scores, _score_activation(context.files.config))
    pooled = context.config(EmbeddingsOptions).pool_embeddings
    return Pooling(recipe, context.model.spec.dim, context.model.device) if pooled else None


def _score_activation(config: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """The last function of a score, as sentence-transformers saves it in config.json; unsaved, the logistic one."""
    saved = config.get("sentence_transformers")
    name = saved.get("activation_fn") if isinstance(saved, Mapping) else None
    name = str(name or config.get("sbert_ce_default_activation_function") or "torch.nn.Sigmoid")
    known: Mapping[str, Callable[[Tensor], Tensor]] = {"Sigmoid": torch.sigmoid, "Identity": torch.nn.Identity()}
    function = name.rpartition(".")[2]
    if not name.startswith("torch.nn") or function not in known:
        raise ModelError(
            f"config.json: the activation function {name!r} is not known; known: torch.nn's Sigmoid, Identity"
        )
    return known[function]


def _info(context: EngineContext, recipe: Recipe, parameters: int, adapters: Mapping[str, str]) -> ModelInfo:
    files, loader, options = context.files, context.model, context.options
    return ModelInfo(
        name=options.name,
        ref=files.ref,
        path=files.path,
        architecture=files.architecture,
        max_length=_max_length(options, recipe, loader.spec),
        vocab_size=loader.spec.vocab_size,
        eos_token_ids=(),
        dtype=str(loader.storage).removeprefix("torch."),
        device=str(loader.device),
        parameters=parameters,
        max_batch_size=options.max_batch_size or STEP_TEXTS,
        created=int(time.time()),
        task=files.task,
        adapters=tuple(adapters),
        adapter_sources=adapters,
        vectors=vector_info(
            recipe,
            files.config,
            task=files.task,
            dim=loader.spec.dim,
            pooled=context.config(EmbeddingsOptions).pool_embeddings,
            matryoshka=loader.architecture.matryoshka,
        ),
    )


def _max_length(options: EngineOptions, recipe: Recipe, spec: ModelSpec) -> int:
    """Tokens of the longest text: as chosen, else as the folder says, and never more than there are positions."""
    wanted = options.max_length
    if wanted is not None and wanted > spec.max_length:
        raise SettingsError(f"--max-length {wanted} is above the {spec.max_length} positions the model has; lower it")
    return min(wanted or recipe.max_length or spec.max_length, spec.max_length)


def warm_up(engine: EncoderEngine) -> None:
    """Encodes one short text, so that the first client does not pay for lazy set-up."""
    engine.simulates_failures = False  # --sim-failure is for clients
    length = min(4, engine.info.max_length)
    engine.add(EncodeRequest(id="warm-up", texts=((0,) * length,)))
    while engine.busy:
        for encoded in engine.step():
            if encoded.error is not None:
                raise PluginError(f"the model failed in its warm-up step: {encoded.error}")
    engine.reset_counters()
    engine.simulates_failures = True
