"""Puts an engine together from settings, the host's registries and a model's files."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from maxserve.core.assembly.cache_pressure import CachePressureLog
from maxserve.core.assembly.caches import (
    build_attention,
    build_cache,
    cache_factors,
    choose_cache_format,
    group_block_tables,
)
from maxserve.core.assembly.compilers import Compilers, preferred_backend
from maxserve.core.assembly.no_adapters import no_adapters
from maxserve.core.assembly.params import ParamsReader, request_params
from maxserve.core.assembly.ranks import validate_shared
from maxserve.core.assembly.speculators import build_drafting, choose_speculator, draft_needs
from maxserve.core.assembly.strategy import choose_groups, choose_strategy
from maxserve.core.assembly.target import Loaded, Target
from maxserve.core.config.components import unused_chunking
from maxserve.core.engine.draw import Pipeline, Stage
from maxserve.core.engine.grammar import GrammarManager
from maxserve.core.engine.inputs import InputsBuilder
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.overlap import device_queue_for
from maxserve.core.engine.parts import Parts
from maxserve.core.interfaces.architecture import Model, ModelSpec
from maxserve.core.interfaces.attention import CacheQuery
from maxserve.core.interfaces.chat_template import ChatTemplateContext
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.engine import GenerationContext, ModelInfo
from maxserve.core.interfaces.errors import PluginError, SettingsError, cause
from maxserve.core.interfaces.grammar import GrammarContext
from maxserve.core.interfaces.images import StepImagesContext
from maxserve.core.interfaces.memory import MemoryContext
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.runner import RunnerContext
from maxserve.core.interfaces.sampler import SamplerContext
from maxserve.core.interfaces.scheduler import Limits, SchedulerContext
from maxserve.core.loading.kernels import Chooser
from maxserve.core.loading.model_loader import ModelLoader
from maxserve.core.loading.tasks import OwnContext
from maxserve.core.registry.contracts import built_part
from maxserve.core.registry.sources import BUILT_IN
from maxserve.core.text.end_tokens import end_tokens
from maxserve.core.text.grammar_vocabulary import grammar_context

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.engine.drafting import Drafting
    from maxserve.core.engine.overlap import DeviceQueue
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import CacheLayer
    from maxserve.core.interfaces.engine import ModelFiles, ServedEngine
    from maxserve.core.interfaces.images import ImagesOfSteps
    from maxserve.core.interfaces.memory import PlannedMemory
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.interfaces.runner import Runner
    from maxserve.core.interfaces.scheduler import Scheduler, StepPolicy
    from maxserve.core.loading.shard import Shard
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.ranks import RankGroup

log = logging.getLogger("maxserve.engine")

MEASURED_ROWS = 64  # most rows of a step of which the time is measured at the start
MIXED_STEP_CPU, MIXED_STEP = 200, 50  # milliseconds of a step that runs prompts beside answers


def build(context: OwnContext) -> ServedEngine:
    """As the engine's declaration asks it."""
    settings, host, files = context.settings, context.host, context.files
    engine = build_engine(settings, host, files, progress=context.progress, group=context.group)
    sections = host.section_values(settings)
    built = GenerationContext(sections=sections, cache=engine.kv_cache, salt=engine.salt, files=files, components=host)
    return host.engine_built(engine, built)


def build_engine(
    settings: Settings, host: Host, files: ModelFiles, *, progress: Progress, group: RankGroup | None = None
) -> Engine:
    """An engine that is ready to serve: weights loaded, memory planned and taken, one request run to warm up.

    With a `group`, it is that of the first rank, and the others must be built meanwhile.
    """
    target = _target(settings, host, files, progress, group)
    loaded = _load(target, files, target.loader)
    progress.phase("Warming up")
    parts = _parts(target, loaded)
    blamed = _blamed(host, files.architecture, target.chooser)
    warm_up(
        Engine(replace(parts, failure_percent=0.0)), blamed
    )  # --sim-failure is for clients, the start must not meet it
    if parts.drafting is not None:
        parts.drafting.insist()
        if parts.drafting.adapts:
            measure_steps(Engine(replace(parts, failure_percent=0.0)), parts.drafting)
    return Engine(parts)


def build_follower(
    settings: Settings, host: Host, files: ModelFiles, *, progress: Progress, group: RankGroup
) -> Runner:
    """What computes another rank's part of the steps: the model, and room for its keys and values."""
    target = _target(settings, host, files, progress, group)
    loaded = _load(target, files, target.loader)
    group.lend(loaded.model)
    cache = build_cache(target, loaded, loaded.plan.max_batch_size)
    return _runner(target, loaded, build_attention(target, loaded, cache))


def _target(
    settings: Settings, host: Host, files: ModelFiles, progress: Progress, group: RankGroup | None = None
) -> Target:
    if group is not None:
        validate_shared(settings, host, files)
        if group.leads:
            log.warning(
                "--devices %s: processes on CPUs that share a model meet several times in each layer, and are slower "
                "than one",
                settings.model.devices,
            )
    _check_empty_batches(settings, host, files)
    loader = ModelLoader(settings, host, files, progress, shard=None if group is None else group.shard)
    _check_overlap(settings, loader.device)
    return Target(
        settings=settings,
        host=host,
        loader=loader,
        strategy=choose_strategy(settings, host, files.architecture),
        scheduler=host.schedulers.get(settings.scheduling.scheduler),
        speculator=choose_speculator(settings, host),
        group=group,
    )


def _check_empty_batches(settings: Settings, host: Host, files: ModelFiles) -> None:
    if settings.scheduling.execute_empty_batches:
        architecture = host.architectures.get(files.architecture).component
        if not architecture.supports_empty_batches:
            raise SettingsError(
                f"--execute-empty-batches: architecture {architecture.name!r} does not say that it can run a step "
                "without requests (supports_empty_batches); leave the option out"
            )


def _check_overlap(settings: Settings, device: torch.device) -> None:
    method = settings.speculative.speculative_method
    if settings.scheduling.enable_overlap_scheduler and method is not None and device.type == "cpu":
        raise SettingsError(
            f"--speculative-method {method} goes without --enable-overlap-scheduler on a CPU, whose cores plan and "
            "draft beside the model; leave one of them out"
        )


def _cache_dtype(loader: ModelLoader, files: ModelFiles) -> torch.dtype:
    """The type of keys and values where the operator names none."""
    query = CacheQuery(
        sections=loader.sections,
        layers=tuple(loader.spec.cache_layers),
        rows=loader.computation.row_dtype(files.encoding),
        compute=loader.compute,
        device=loader.device,
    )
    return loader.chooser.cache_dtype(query)


def _device_queue(settings: Settings, device: torch.device) -> DeviceQueue | None:
    """Where steps run beside their planning, when that is asked for."""
    if not settings.scheduling.enable_overlap_scheduler:
        return None
    if device.type == "cpu":
        log.warning(
            "--enable-overlap-scheduler: on a CPU the model runs in a thread beside the planning, and both share the "
            "cores; expect little of it (see docs/performance.md)"
        )
    return device_queue_for(device)


def _load(target: Target, files: ModelFiles, loader: ModelLoader) -> Loaded:
    spec = loader.spec
    ends = end_tokens(  # before the weights: errors in the files of the tokenizer come at once
        target.loader.tokenizer_files(files.path).special_tokens(),
        files.config,
        files.generation_config,
        vocab_size=spec.vocab_size,
        template=target.host.chat_template(ChatTemplateContext(sections=target.sections, path=files.path)),
    )
    module = loader.build(Model, "prepare, forward and logits")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    needs = draft_needs(target, spec, files)
    adapters = loader.adapter_pool(module)
    layers = (*_own_layers(spec, loader.shard), *needs.layers)
    if target.group is not None and adapters is not None:
        target.group.adapt(adapters)
    format = choose_cache_format(target, layers, unset=lambda: _cache_dtype(loader, files))
    factors = cache_factors(target, files, spec.cache_layers, layers) if format.factored else ()
    groups = choose_groups(target.settings, target.host, target.strategy, layers, spec.max_length)
    if groups and needs.layers:  # passes of a drafter go back to tokens that windows have passed
        log.warning("pages that the model's windows have passed are kept until their request ends, for the draft model")
        groups = ()
    held = loader.held_encoding(module)
    context = MemoryContext(
        sections=target.sections,
        settings=target.settings,
        spec=spec,
        device=target.device,
        compute=target.compute,
        format=format,
        layers=(*_all_layers(_own_layers(spec, loader.shard), loader.shard), *needs.layers),
        groups=groups,
        weights=loader.weight_bytes(module) + needs.weight_bytes,
        adapters=0 if adapters is None else adapters.memory,
        unrounded=loader.unrounded_bytes(module),
        encoding=held,
        whole_prompts=not target.scheduler.component.chunks_prompts,
        draws=target.speculator is None or target.speculator.component.draws,
    )
    planned = partial(_plan_memory, target, context)
    plan = planned() if target.group is None else target.group.plan(planned)
    loader.fill(module, plan.max_length)
    if adapters is not None:
        adapters.correct()
    return Loaded(
        files=files,
        spec=spec,
        model=cast("Model", module),  # it is both, which was checked when it was built
        parameters=parameters,
        plan=plan,
        needs=needs,
        layers=layers,
        groups=groups,
        format=format,
        factors=factors,
        ends=ends,
        encoding=held,
        adapters=adapters,
    )


def _own_layers(spec: ModelSpec, shard: Shard | None) -> tuple[CacheLayer, ...]:
    """What this process keeps of a token."""
    return spec.cache_layers if shard is None else shard.cache_layers(spec.cache_layers)


def _all_layers(layers: tuple[CacheLayer, ...], shard: Shard | None) -> tuple[CacheLayer, ...]:
    """What all ranks keep of a token together: on the CPUs of one machine they have its memory in common."""
    if shard is None:
        return layers
    return tuple(replace(layer, kv_heads=layer.kv_heads * shard.size) for layer in layers)


def _plan_memory(target: Target, context: MemoryContext) -> PlannedMemory:
    """Decided with numbers alone, before anything is allocated, and shown."""
    plan: PlannedMemory = built_part(target.host, target.strategy, "memory", context)
    log.info("memory plan\n%s", plan.table())
    for warning in plan.warnings:
        log.warning("%s", warning)
    total = target.settings.scheduling.max_batch_total_tokens
    if total is not None and total < plan.max_length:
        raise SettingsError(
            f"--max-batch-total-tokens {total} is below the length of {plan.max_length} a single request may have; "
            "raise it or lower --max-length"
        )
    return plan


def _parts(target: Target, loaded: Loaded) -> Parts:
    spec, plan = loaded.spec, loaded.plan
    scheduler = target.scheduler
    limits = _limits(target, scheduler, spec, plan)
    cache = build_cache(target, loaded, limits.rows)
    attention = build_attention(target, loaded, cache)
    module, pool = cast("torch.nn.Module", loaded.model), loaded.adapters
    if target.group is None:  # ranks meet within layers, which compiled ones could not
        target.chooser.compile_layers(module, attention, target.compute)
    if pool is not None:
        pool.load_initial()
    info = _info(target, loaded, {} if pool is None else pool.sources)
    if info.name in info.adapters:
        raise SettingsError(f"an adapter has the name {info.name!r}, which is the model's; give it another one")
    runner = _runner(target, loaded, attention)
    if target.group is not None:
        runner = target.group.lead(runner)
    params = request_params(target.host, target.settings, switches=False)
    images = _images(target, info)
    return Parts(
        info=info,
        limits=limits,
        cache=cache,
        policy=_build_policy(target, scheduler, limits),
        policy_name=scheduler.component.name,
        cost=built_part(target.host, scheduler, "cost", Context(sections=target.sections)),
        builder=InputsBuilder(
            cache,
            plan.page_size,
            target.device,
            images=images,
            block_tables=group_block_tables(loaded, cache),
            adapters=pool,
        ),
        runner=runner,
        adapters=pool or no_adapters(),
        on_lost_pages=CachePressureLog().preempted,
        images=images,
        pipeline=build_pipeline(
            target.host, SamplerContext(sections=target.sections, vocab_size=spec.vocab_size, device=target.device)
        ),
        read_params=ParamsReader(params, vocab_size=spec.vocab_size).read,
        grammars=_grammars(target, info),
        grammar_backend=preferred_backend(target.settings.sampling.grammars, target.host),
        max_steps=max(1, target.settings.scheduling.max_num_steps),  # -1, the best value, is 1: docs/decisions/
        device_queue=_device_queue(target.settings, target.device),
        drafting=build_drafting(target, loaded, attention, cache),
        empty_steps=target.settings.scheduling.execute_empty_batches,
        failure_percent=float(target.settings.server.sim_failure),
        check_when_idle=log.isEnabledFor(logging.DEBUG),
    )


def _images(target: Target, info: ModelInfo) -> ImagesOfSteps | None:
    """What steps compute of images; None for a model that takes text only."""
    if not info.images:
        return None
    context = StepImagesContext(sections=target.sections, device=target.device)
    entry = target.host.architectures.get(info.architecture)
    found: ImagesOfSteps = built_part(target.host, entry, "image_steps", context)
    return found


def _runner(target: Target, loaded: Loaded, attention: Attention) -> Runner:
    context = RunnerContext(
        sections=target.sections,
        model=loaded.model,
        attention=attention,
        vocab_size=loaded.spec.vocab_size,
        device=target.device,
        aux_layers=loaded.needs.aux_layers,
    )
    runner: Runner | None = target.chooser.best(target.host.model_runners, context)
    if runner is None:
        raise PluginError(f"no model runner works on the device {target.device.type!r}; see `max list`")
    return runner if loaded.adapters is None else loaded.adapters.around(runner)


def build_pipeline(host: Host, context: SamplerContext) -> Pipeline:
    """The transforms of all registered samplers, in the order in which they apply."""
    entries = sorted(host.samplers, key=lambda entry: (entry.component.stage, entry.component.name))
    stages = [
        Stage.of(
            e.component.name,
            host.build(e, context),
            keeps_argmax=e.component.keeps_argmax,
            params=host.load(e, e.component.params) if e.component.params is not None else None,
        )
        for e in entries
    ]
    return Pipeline(stages, context.device)


def _build_policy(target: Target, scheduler: Entry[Scheduler], limits: Limits) -> StepPolicy:
    if warning := unused_chunking(target.settings, scheduler.component):
        log.warning("%s", warning)
    policy: StepPolicy = target.host.build(scheduler, SchedulerContext(sections=target.sections, limits=limits))
    return policy


def _limits(target: Target, scheduler: Entry[Scheduler], spec: ModelSpec, plan: PlannedMemory) -> Limits:
    scheduling, declared = target.settings.scheduling, scheduler.component
    started = None if declared.max_started is None else target.host.load(scheduler, declared.max_started)
    return Limits(
        max_batch_size=plan.max_batch_size,
        max_batch_input_tokens=scheduling.max_batch_input_tokens,
        max_batch_total_tokens=scheduling.max_batch_total_tokens,
        max_length=plan.max_length,
        page_size=plan.page_size,
        pages=plan.pages,
        chunked_prefill=scheduling.enable_chunked_prefill and declared.chunks_prompts,
        in_flight_batching=scheduling.enable_in_flight_batching and declared.mixes_prompts,
        mixed_step_seconds=_mixed_step_seconds(target),
        watermark=scheduling.kvcache_ce_watermark,
        prompt_regimes=spec.prompt_regimes,
        max_started=None if started is None else started(Context(sections=target.sections)),
        page_bounds=plan.page_bounds,
    )


def _mixed_step_seconds(target: Target) -> float | None:
    """How long who decodes may have to wait for prompts; None where they wait for as many tokens as were given."""
    given = target.settings.scheduling.max_mixed_step_ms
    if given is None and "scheduling.max_batch_input_tokens" in target.settings.chosen:
        return None
    return (given or (MIXED_STEP_CPU if target.device.type == "cpu" else MIXED_STEP)) / 1000


def _grammars(target: Target, info: ModelInfo) -> GrammarManager:
    """The vocabulary is read when a grammar is first wanted: most servers' clients never do."""

    def context() -> GrammarContext:
        return grammar_context(target.loader.tokenizer_files(info.path).load(), info, target.sections)

    compilers = Compilers(target.host, context)
    return GrammarManager(compilers, info.eos_token_ids, info.vocab_size, compilers.with_thoughts)


def _info(target: Target, loaded: Loaded, adapters: Mapping[str, str]) -> ModelInfo:
    files, plan = loaded.files, loaded.plan
    return ModelInfo(
        name=target.settings.model.served_model_name or files.ref,
        ref=files.ref,
        path=files.path,
        architecture=files.architecture,
        max_length=plan.max_length,
        vocab_size=loaded.spec.vocab_size,
        eos_token_ids=loaded.ends,
        dtype=loaded.encoding,
        device=str(target.device),
        parameters=loaded.parameters,
        max_batch_size=plan.max_batch_size,
        created=int(time.time()),
        defaults=dict(files.generation_config),
        adapters=tuple(adapters),
        adapter_sources=adapters,
        images=target.host.architectures.get(files.architecture).component.images is not None,
        unsupported=_unsupported(target),
        without_prefixes=_without_prefixes(target),
    )


def _unsupported(target: Target) -> dict[str, str]:
    """The request fields that this engine does not take, with the reason."""
    found = {"kv_transfer_params": "and target_endpoint need a server that exchanges keys and values (--pipeline-role)"}
    if not target.scheduler.component.priorities:
        found["priority"] = (
            f"means nothing with --scheduler {target.scheduler.name}, which does not look at it; leave it out, or "
            "start the server with another scheduler"
        )
    if not target.settings.sampling.enable_variable_logits:
        found["prompt_logprobs"] = (
            "cannot be used: this server was started with --no-enable-variable-logits; leave it out, or start the "
            "server with --enable-variable-logits"
        )
    return found


def _without_prefixes(target: Target) -> str:
    """The option for which no prefixes are kept, if none are."""
    if not target.settings.kv_cache.enable_prefix_caching:
        return "--no-enable-prefix-caching"
    return "" if target.strategy.component.shares_prefixes else f"--cache-strategy {target.strategy.name}"


def warm_up(engine: Engine, blamed: str = "") -> None:
    """Runs one short request, so that the first client does not pay for lazy set-up.

    PluginError when it fails; `blamed` names who may be the cause, with "; " before.
    """
    prompt = (0, 0) if engine.info.max_length > 3 else (0,)
    tokens = min(2 + engine.draft_tokens, engine.info.max_length - len(prompt))
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    engine.simulates_failures = engine.patient = False  # --sim-failure is for clients, and no others will come
    engine.add(Request(id="warm-up", prompt=prompt, params=params))
    while engine.busy:
        for output in engine.next_outputs():
            if output.error is not None:
                raise PluginError(f"the model failed in its warm-up step: {output.error}{blamed}")
    if engine.empty_steps:
        _try_empty_step(engine)
    engine.reset_prefix_cache()
    engine.reset_counters()
    engine.simulates_failures = engine.patient = True


def measure_steps(engine: Engine, drafting: Drafting, seconds: float = 1.0) -> None:
    """Decodes more and more requests at once, about that long, so that it is known what the rows of a step cost."""
    rows, took, end = 1, 0.0, time.perf_counter() + seconds
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    engine.patient = False
    with drafting.measuring():
        while rows <= min(engine.info.max_batch_size, MEASURED_ROWS) and time.perf_counter() + 2 * took < end:
            begun = time.perf_counter()
            for i in range(rows):
                engine.add(Request(id=f"warm-up {i}", prompt=(0,), params=params))
            while engine.busy:
                engine.next_outputs()
            took, rows = time.perf_counter() - begun, 2 * rows
    engine.reset_prefix_cache()


def _blamed(host: Host, architecture: str, chooser: Chooser) -> str:
    """The architecture and kernels that are not ours, for a message about a failed warm-up."""
    entries: list[Entry[Any]] = [host.architectures.get(architecture), *chooser.serving]
    strangers = [str(entry) for entry in entries if entry.origin != BUILT_IN]
    return f"; this server runs with {', '.join(strangers)}" if strangers else ""


def _try_empty_step(engine: Engine) -> None:
    try:
        engine.step()
    except Exception as error:
        raise PluginError(
            f"architecture {engine.info.architecture!r} says that it supports empty batches, but failed in a step "
            f"without requests: {cause(error)}"
        ) from error
