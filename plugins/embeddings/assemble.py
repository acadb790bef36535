"""Puts the engine of a model that encodes texts together: for embeddings, and for scores of pairs."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from maxserve.interfaces.engine import SCORING, EngineContext, ModelInfo
from maxserve.interfaces.errors import ModelError, PluginError, SettingsError
from maxserve.interfaces.request import EncodeRequest
from maxserve.layers import Encoder, Scorer
from maxserve.loading import (
    Chooser,
    Computation,
    ModelFolder,
    activation_bytes,
    build_module,
    choose_device,
    chosen_names,
    fill,
    free_memory,
    prepare,
    read_spec,
    read_weight_map,
    size_text,
    weight_bytes,
)
from maxserve.plugins.embeddings.engine import EncoderEngine, EncoderParts, Finish
from maxserve.plugins.embeddings.pooling import Pooling, Scoring
from maxserve.plugins.embeddings.sentence import Recipe, read_recipe
from maxserve.plugins.embeddings.text_attention import WithinTexts
from maxserve.plugins.embeddings.vector_info import vector_info

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.config import Settings
    from maxserve.interfaces.architecture import Architecture, ModelSpec
    from maxserve.interfaces.engine import ModelFiles
    from maxserve.interfaces.host import Host
    from maxserve.interfaces.progress import Progress
    from maxserve.registry import Entry

log = logging.getLogger("maxserve.engine")

# Larger steps of a CPU do hardly more work per second, and requests that come meanwhile wait for them.
STEP_WORK = 20e9  # multiplications and additions: some tenths of a second
LEAST_TOKENS, MOST_TOKENS = 128, 1024
STEP_TEXTS = 256


def build(context: EngineContext) -> EncoderEngine:
    """As the engine's declaration asks it."""
    return build_encoder(context.settings, context.host, context.files, progress=context.progress)


def build_encoder(settings: Settings, host: Host, files: ModelFiles, *, progress: Progress) -> EncoderEngine:
    """An engine that is ready to serve: weights loaded and a text encoded to warm up."""
    device = choose_device(settings.model.devices)
    chooser = Chooser(
        host, device, host.section_values(settings), compiled=settings.model.use_subgraphs, names=chosen_names(settings)
    )
    computation = chooser.computation(files.encoding, explicit=files.explicit_encoding)
    architecture = host.architectures.get(files.architecture)
    trusted = settings.model.trust_remote_code
    spec = read_spec(host, architecture, ModelFolder(path=files.path, config=files.config, trusted=trusted))
    progress.phase("Building the model")
    module = _module(host, architecture, spec, computation, files.task)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    tokens = step_tokens(settings, spec, parameters, device)
    _check_memory(settings, spec, module, computation, files, device, tokens)
    weight_map = read_weight_map(host, architecture, spec, files.config, rope_type=settings.model.rope_type)
    fill(host, module, files, architecture, computation, device, progress, weight_map)
    model = cast("Encoder", module)  # it is both, which was checked when it was built
    prepare(model, files)
    recipe = read_recipe(Path(files.path), causal=bool(spec.cache_layers))
    info = _info(settings, files, spec, recipe, architecture.component, computation, device, parameters)
    progress.phase("Warming up")
    parts = EncoderParts(
        info=info,
        model=model,
        attention=WithinTexts(spec.cache_layers),
        finish=_finish(settings, model, recipe, spec, files, device),
        device=device,
        max_tokens=tokens,
        max_texts=info.max_batch_size,
        failure_percent=float(settings.server.sim_failure),
        random=random.Random(),
    )
    engine = EncoderEngine(parts)
    warm_up(engine)
    return engine


def _module(
    host: Host, architecture: Entry[Architecture], spec: ModelSpec, computation: Computation, task: str
) -> torch.nn.Module:
    protocol, methods = (Scorer, "prepare, forward and scores") if task == SCORING else (Encoder, "prepare and forward")
    return build_module(host, architecture, spec, computation.compute, protocol, methods)


def step_tokens(settings: Settings, spec: ModelSpec, parameters: int, device: torch.device) -> int:
    """Tokens of a step: as chosen, else, on a CPU, as many as are `STEP_WORK` in a model of so many parameters."""
    tokens = settings.scheduling.max_batch_input_tokens
    if "scheduling.max_batch_input_tokens" in settings.chosen or device.type != "cpu":
        return tokens
    multiplied = max(1, parameters - spec.vocab_size * spec.dim)  # the table of words is only looked up in
    return min(tokens, max(LEAST_TOKENS, min(MOST_TOKENS, int(STEP_WORK / (2 * multiplied)))))


def _check_memory(
    settings: Settings,
    spec: ModelSpec,
    module: torch.nn.Module,
    computation: Computation,
    files: ModelFiles,
    device: torch.device,
    tokens: int,
) -> None:
    """ModelError when weights and a step do not fit into the share of memory that may be used."""
    free = free_memory(device.type, device.index or 0)
    usable = int(free * settings.kv_cache.device_memory_utilization)
    weights = weight_bytes(module, computation.storage_dtype(files.encoding).itemsize)
    longest = max(tokens, spec.max_length)
    activations = activation_bytes(spec, tokens=longest, rows=0, itemsize=computation.compute.itemsize)
    log.info(
        "memory: %s free on %s, weights %s, activations %s (estimated); steps of %d tokens",
        *(size_text(free), device.type, size_text(weights), size_text(activations), tokens),
    )
    if weights + activations > usable:
        raise ModelError(
            f"the model does not fit: weights {size_text(weights)} and activations {size_text(activations)} need more "
            f"than the {size_text(usable)} that may be used of the {size_text(free)} free on {device.type}; free some "
            "memory, lower --max-batch-input-tokens, raise --device-memory-utilization, or take a smaller model"
        )


def _finish(
    settings: Settings, model: Encoder, recipe: Recipe, spec: ModelSpec, files: ModelFiles, device: torch.device
) -> Finish | None:
    """What makes one vector, or the score, of a text."""
    if files.task == SCORING:
        return Scoring(cast("Scorer", model).scores, _score_activation(files.config))
    return Pooling(recipe, spec.dim, device) if settings.model.pool_embeddings else None


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


def _info(
    settings: Settings,
    files: ModelFiles,
    spec: ModelSpec,
    recipe: Recipe,
    architecture: Architecture,
    computation: Computation,
    device: torch.device,
    parameters: int,
) -> ModelInfo:
    return ModelInfo(
        name=settings.model.served_model_name or files.ref,
        path=files.path,
        architecture=files.architecture,
        max_length=_max_length(settings, recipe, spec),
        vocab_size=spec.vocab_size,
        eos_token_ids=(),
        dtype=str(computation.storage_dtype(files.encoding)).removeprefix("torch."),
        device=str(device),
        parameters=parameters,
        max_batch_size=settings.scheduling.max_batch_size or STEP_TEXTS,
        created=int(time.time()),
        task=files.task,
        vectors=vector_info(
            recipe,
            files.config,
            task=files.task,
            dim=spec.dim,
            pooled=settings.model.pool_embeddings,
            matryoshka=architecture.matryoshka,
        ),
    )


def _max_length(settings: Settings, recipe: Recipe, spec: ModelSpec) -> int:
    """Tokens of the longest text: as chosen, else as the folder says, and never more than there are positions."""
    wanted = settings.model.max_length
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
