"""The speculative method of an engine: what it needs before memory is planned, and its drafts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from maxserve.core.engine.drafting import Drafting, DraftRoom
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.speculator import DraftModelsContext, DraftNeeds, NeedsContext, SpeculatorContext
from maxserve.core.registry.contracts import built_part

if TYPE_CHECKING:
    from maxserve.core.assembly.target import Loaded, Target
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.architecture import ModelSpec
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.speculator import DraftModels, Speculator
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.engine")


def choose_speculator(settings: Settings, host: Host) -> Entry[Speculator] | None:
    """The speculative method that was named; PluginError when there is none of that name."""
    name = settings.speculative.speculative_method
    return None if name is None else host.speculators.get(name)


def draft_needs(target: Target, spec: ModelSpec, files: ModelFiles) -> DraftNeeds:
    """What the drafter needs beside its own objects; nothing where none was named."""
    entry = target.speculator
    if entry is None:
        _offer(target, spec, files)
    if entry is None or entry.component.needs is None:
        return DraftNeeds()
    found: DraftNeeds = target.host.load(entry, entry.component.needs)(_needs_context(target, entry, spec, files))
    return found


def _needs_context(target: Target, entry: Entry[Speculator], spec: ModelSpec, files: ModelFiles) -> NeedsContext:
    return NeedsContext(
        sections=target.sections,
        spec=spec,
        raw=files.config,
        path=files.path,
        draft_tokens=target.settings.speculative.num_speculative_tokens,
        models=_models(target, entry),
        components=target.host,
    )


def _models(target: Target, entry: Entry[Speculator], **placed: Any) -> DraftModels:
    """What finds and loads the models of a method, which are `placed` somewhere once the cache is there."""
    context = DraftModelsContext(sections=target.sections, loader=target.loader, components=target.host, **placed)
    found: DraftModels = built_part(target.host, entry, "models", context)
    return found


def _offer(target: Target, spec: ModelSpec, files: ModelFiles) -> None:
    """Says which methods would find in the target's checkpoint, or with it, what they draft with."""
    for method in files.companions:
        log.info("the model brings what it can be drafted with; --speculative-method %s drafts with it", method)
    for entry in target.host.speculators:
        if entry.component.offers is not None:
            context = _needs_context(target, entry, spec, files)
            offer: str | None = target.host.load(entry, entry.component.offers)(context)
            if offer is not None:
                log.info("%s; --speculative-method %s drafts with it", offer, entry.name)


def build_drafting(target: Target, loaded: Loaded, attention: Attention, cache: Cache) -> Drafting | None:
    """The drafts of an engine; None where no speculative method was named."""
    entry = target.speculator
    if entry is None:
        return None
    drafts = target.settings.speculative.num_speculative_tokens
    first = len(loaded.spec.cache_layers)
    context = SpeculatorContext(
        sections=target.sections,
        draft_tokens=drafts,
        model=loaded.model if target.group is None else target.group.lend(loaded.model),
        spec=loaded.spec,
        attention=attention,
        first_layer=first,
        vocab_size=loaded.spec.vocab_size,
        max_length=loaded.plan.max_length,
        step_tokens=target.settings.scheduling.max_batch_input_tokens,
        page_size=loaded.plan.page_size,
        dtype=target.compute,
        device=target.device,
        path=loaded.files.path,
        components=target.host,
        models=_models(target, entry, attention=attention, first_layer=first, max_length=loaded.plan.max_length),
    )
    drafter = target.host.build(entry, context)
    return Drafting(
        drafter,
        title=str(entry),
        draft_tokens=drafts,
        vocab_size=loaded.spec.vocab_size,
        rolls_back=lambda name: target.host.grammar_backends.get(name).component.rollback,
        follows=bool(loaded.needs.layers or loaded.needs.aux_layers),
        room=DraftRoom(cache, loaded.plan.page_size) if loaded.needs.layers else None,
        lengths=built_part(target.host, entry, "lengths", context)
        if target.settings.speculative.adaptive_speculation
        else None,
        undrafted=_undrafted(target.host),
    )


def _undrafted(host: Host) -> list[type[Any]]:
    """The params of samplers that go with no drafts; SettingsError for one that works on every request."""
    found = []
    for entry in host.samplers:
        if entry.component.with_drafts:
            continue
        if entry.component.params is None:
            raise SettingsError(
                f"--speculative-method: {entry} works on every request and declares that it goes with no drafts; leave "
                "the option out, or the plugin"
            )
        found.append(host.load(entry, entry.component.params))
    return found
