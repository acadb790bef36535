"""The plugins of one process and what they offer.

The one file that asks pluggy for implementations: everything else sees typed registries. A host is an object, not a
global; a process makes one at its start, and no hook is called once requests are served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from maxserve.core import hookspecs
from maxserve.core.interfaces.component import Declaration, Ref
from maxserve.core.interfaces.config import ConfigSection
from maxserve.core.interfaces.errors import MaxserveError, ModelError, PluginError, SettingsError, cause
from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
from maxserve.core.interfaces.process import ProcessInfo
from maxserve.core.interfaces.sampler import Sampler
from maxserve.core.registry.complaints import Complaints
from maxserve.core.registry.conflicts import settle
from maxserve.core.registry.entries import Declared, Entry, Registry, load_ref, where
from maxserve.core.registry.fields import field_owners
from maxserve.core.registry.hooks import (
    check_commands,
    check_declaration,
    check_implementation,
    declares_nothing,
    one_line,
    validate_required,
    wrong_type,
)
from maxserve.core.registry.kinds import KINDS
from maxserve.core.registry.loading import explain, import_plugin
from maxserve.core.registry.manifest import Manifest, compare, declared, fingerprint
from maxserve.core.registry.options import PluginOptions, Preference, parse_preferences
from maxserve.core.registry.protocol import Host
from maxserve.core.registry.selection import Plugin, find_plugins
from maxserve.core.registry.sources import Source

if TYPE_CHECKING:
    import click

    from maxserve.core.config import Settings
    from maxserve.core.config.settings import PluginSection
    from maxserve.core.interfaces.cache import Cache, CacheContext
    from maxserve.core.interfaces.chat_template import ChatTemplate, ChatTemplateContext
    from maxserve.core.interfaces.engine import Engine, GenerationContext, ServedEngine
    from maxserve.core.interfaces.routes import Routes
    from maxserve.core.interfaces.tokenizer import TokenizerContext, TokenizerFiles
    from maxserve.core.registry.protocol import Invocation

__all__ = ["PluginHost", "Manifest", "Plugin", "PluginOptions", "ProcessInfo", "Source"]

D = TypeVar("D", bound=Declared)
Trace = Callable[[str], None]
SECTIONS = "maxserve_config"


class PluginHost(Host):
    """The plugins of one process and the registries of what they declare.

    Made by `discover` (strict: the first problem is raised; else problems are noted in `problems` and what is broken
    is left out) or, in a worker, by `from_manifest`. Each kind has its registry under the name of its hook.
    """

    engines: Registry[Engine]
    routes: Registry[Routes]

    def __init__(
        self,
        plugins: Iterable[Plugin],
        prefer: Iterable[str],
        complaints: Complaints,
        *,
        serving: bool,
        trace: Trace | None = None,
    ) -> None:
        self._complaints = complaints
        self._trace = trace
        self._prefer = tuple(prefer)
        self._preferences = self._parse_preferences()
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins = list(plugins)
        self._register_all()
        kinds = [kind for kind in KINDS if serving or kind.in_workers]
        here = {kind.name for kind in kinds} | {ConfigSection.kind}
        self._preferences = [preference for preference in self._preferences if preference.kind in here]
        self._entries = self._gather({**{kind.hook: kind.component for kind in kinds}, SECTIONS: ConfigSection})
        self.registries: tuple[Registry[Any], ...] = tuple(self._registry(kind.component) for kind in KINDS)
        for kind, registry in zip(KINDS, self.registries, strict=True):
            setattr(self, kind.registry, registry)
        self._sections = self._registry(ConfigSection)
        shared = [registry for kind, registry in zip(KINDS, self.registries, strict=True) if kind.in_workers]
        self._declared = declared(entry for registry in (*shared, self._sections) for entry in registry)

    @classmethod
    def discover(cls, options: PluginOptions, *, strict: bool, trace: Trace | None = None) -> PluginHost:
        """The host of a process that finds its plugins itself."""
        complaints = Complaints(strict=strict, tolerant=options.tolerant)
        host = cls(find_plugins(options, complaints), options.prefer, complaints, serving=True, trace=trace)
        if strict:
            host.insist()
        return host

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> PluginHost:
        """The host of a worker; PluginError when it does not come out equal to the sender's."""
        complaints = Complaints(strict=True, tolerant=manifest.tolerant)
        plugins = [Plugin(source=source) for source in manifest.sources]
        host = cls(plugins, manifest.prefer, complaints, serving=False)
        compare(manifest, host._declared)
        return host

    def manifest(self) -> Manifest:
        """What `from_manifest` needs to make an equal host in another process."""
        return Manifest(
            sources=tuple(plugin.source for plugin in self._plugins if plugin.active),
            prefer=self._prefer,
            tolerant=self._complaints.tolerant,
            declared=self._declared,
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._declared)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        return tuple(self._plugins)

    @property
    def problems(self) -> tuple[PluginError, ...]:
        """What a strict host would have raised, in the order it was found."""
        return tuple(self._complaints.errors)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know although it stops nothing."""
        return tuple(self._complaints.warnings)

    def of(self, component: type[D]) -> Registry[D]:
        return next(registry for registry in self.registries if registry.kind == component.kind)

    def insist(self) -> None:
        """Raises the first problem, as a strict discovery would have; nothing if the operator tolerates problems.

        Imports what else is needed of every plugin: the classes of request fields and of settings.
        """
        self._complaints.insist()
        sections = self.plugin_sections()
        try:
            self.request_fields()
            for entry in self.architectures:
                validate_required(entry.component, sections)
        except PluginError as error:
            self._complaints.report(error)
        self._complaints.insist()

    def build(self, entry: Declaration[Any], context: Any) -> Any:
        """Returns what the component's `build` makes of `context`, and checks that it can do what its kind promises.

        PluginError names plugin, component, target and cause.
        """
        from maxserve.core.registry.contracts import (
            contract_fault,  # no command that builds nothing waits for the Protocols
        )

        build = self.load(entry, entry.component.build)
        try:
            built = build(context)
        except MaxserveError:
            raise
        except Exception as error:
            raise PluginError(f"{entry.title}: {entry.where!r} cannot build it: {cause(error)}") from error
        fault = contract_fault(entry.kind, built)
        if fault is not None:
            raise PluginError(f"{entry.title}: {entry.where!r} {fault}")
        return built

    def load(self, entry: Declaration[Any], ref: Ref) -> Any:
        """The thing behind one of the component's references."""
        try:
            return load_ref(ref)
        except PluginError as error:
            raise PluginError(f"{entry.title}: {error}") from error

    def request_fields(self) -> Mapping[str, Entry[Sampler]]:
        """Samplers by the request fields they declare; imports their params classes."""
        samplers = self._with_params(self.samplers)
        for scheduler in self._with_params(self.schedulers):  # one of them is in use at a time
            field_owners([*samplers, scheduler])
        return field_owners(samplers)

    def _with_params(self, entries: Iterable[Entry[Any]]) -> list[tuple[Entry[Any], object]]:
        """Those that declare request fields, each with its params class."""
        declaring = [entry for entry in entries if entry.component.params is not None]
        return [(entry, self.load(entry, entry.component.params)) for entry in declaring]

    def plugin_sections(self) -> list[PluginSection]:
        """The settings sections of plugins, with their schemas imported; those that fail to are left out."""
        return self._imported(self._sections)

    def _imported(self, entries: Iterable[Entry[ConfigSection]]) -> list[PluginSection]:
        from maxserve.core.config.settings import PluginSection

        sections = []
        for entry in entries:
            own = entry.component
            try:
                schema = self.load(entry, own.schema)
                check = None if own.check is None else self.load(entry, own.check)
            except PluginError as error:
                self._complaints.report(error)
                continue
            sections.append(
                PluginSection(
                    name=entry.name,
                    schema=schema,
                    plugin=entry.plugin,
                    within=own.within,
                    title=own.title,
                    prefix=own.prefix,
                    check=check,
                    unsupported=own.unsupported,
                )
            )
        return sections

    def section_values(self, settings: Settings) -> Mapping[type[Any], Any]:
        from maxserve.core.config.section_values import SectionValues

        given = settings.plugins.sections

        def read(schema: type[Any] | None) -> Mapping[type[Any], Any]:
            entries = [entry for entry in self._sections if schema is None or entry.where == where(schema)]
            return {section.schema: section.load(given.get(section.name, {})) for section in self._imported(entries)}

        return SectionValues(read)

    def model_source(self, ref: str, query: ModelQuery) -> ModelSource | None:
        hook = "maxserve_model_source"
        plugin, answer = self._first(hook, ref=ref, query=query)
        if plugin is None:
            return None
        if isinstance(answer, ModelSource):
            return answer
        raise plugin.source.error(wrong_type(hook, "returned", answer, ModelSource))

    def tokenizer(self, context: TokenizerContext) -> TokenizerFiles:
        files: TokenizerFiles | None = self._answer("maxserve_tokenizer", context)
        if files is None:
            raise ModelError(f"no plugin reads the tokenizer in {context.path}; is the one that does left out?")
        return files

    def chat_template(self, context: ChatTemplateContext) -> ChatTemplate | None:
        template: ChatTemplate | None = self._answer("maxserve_chat_template", context)
        return template

    def _answer(self, hook: str, context: Any) -> Any:
        """What the first that answers gives, which can do what it is for."""
        from maxserve.core.registry.contracts import contract_fault

        plugin, answer = self._first(hook, context=context)
        if plugin is not None and (fault := contract_fault(hook, answer)) is not None:
            raise plugin.source.error(f"{hook} {fault}")
        return answer

    def _first(self, hook: str, **arguments: Any) -> tuple[Plugin | None, Any]:
        """Who answers something, and what; the last registered, the operator's own, are asked first."""
        for plugin, call in reversed(list(self._implementations(hook))):
            answer = call(**arguments)
            if answer is not None:
                return plugin, answer
        return None, None

    def process_start(self, process: ProcessInfo) -> None:
        for _, call in self._implementations("maxserve_process_start"):
            call(process=process)

    def cache_built(self, cache: Cache, context: CacheContext) -> None:
        for _, call in self._implementations("maxserve_cache_built"):
            call(cache=cache, context=context)

    def engine_built(self, engine: ServedEngine, context: GenerationContext) -> ServedEngine:
        for _, call in self._implementations("maxserve_engine_built"):
            engine = call(engine=engine, context=context) or engine
        return engine

    def add_commands(self, cli: click.Group, invocation: Invocation) -> None:
        """Has plugins add their commands to `cli`; one that replaces a command loses all it added."""
        owners = dict.fromkeys(cli.commands, "maxserve itself")
        for plugin, call in self._implementations("maxserve_commands"):
            before = dict(cli.commands)
            try:
                call(cli=cli, invocation=invocation)
                check_commands(plugin, before, cli.commands, owners)
            except PluginError as error:
                cli.commands.clear()
                cli.commands.update(before)
                self._complaints.report(error)  # the plugin stays: workers have what it declares as well

    def _register_all(self) -> None:
        for plugin in [plugin for plugin in self._plugins if plugin.active]:
            try:
                self._replace(plugin, self._register(plugin))
            except PluginError as error:
                self._complain(plugin, error)

    def _register(self, plugin: Plugin) -> Plugin:
        loaded, target = import_plugin(plugin)
        other = self._manager.get_name(target)
        if other is not None:
            raise PluginError(f"{loaded.source.label} is the same object as plugin {other!r}; leave away one of them")
        try:
            self._manager.register(target, plugin.name)
            return replace(loaded, hooks=self._checked_hooks(loaded, target))
        except (PluginError, pluggy.PluginValidationError) as error:
            if self._manager.is_registered(target):
                self._manager.unregister(target)
            raise loaded.source.error(one_line(error)) from error

    def _checked_hooks(self, plugin: Plugin, target: object) -> tuple[str, ...]:
        callers = self._manager.get_hookcallers(target) or []
        for caller in callers:
            implementation = next(i for i in caller.get_hookimpls() if i.plugin is target)
            check_implementation(caller.name, implementation, known=caller.has_spec())
        if not callers and not plugin.listed:
            raise declares_nothing(plugin, target)
        return tuple(sorted(caller.name for caller in callers))

    def _gather(self, wanted: Mapping[str, type[Declared]]) -> list[Entry[Any]]:
        """What every plugin declares; one that fails anywhere gives nothing at all."""
        calls: dict[str, list[tuple[str, Callable[[], object]]]] = {}
        for hook in wanted:
            for plugin, call in self._implementations(hook):
                calls.setdefault(plugin.name, []).append((hook, call))
        entries = []
        for plugin in [plugin for plugin in self._plugins if plugin.active]:
            try:
                items = [
                    item
                    for hook, call in calls.get(plugin.name, ())
                    for item in _checked(plugin, hook, call(), wanted[hook])
                ]
                known = {id(item) for item in items}
                items += [item for item in plugin.listed if id(item) not in known]
                _check_declarations(plugin, items)
            except PluginError as error:
                self._complain(plugin, error)
                continue
            entries += [_entry(plugin, item) for item in items]
        return entries

    def _registry(self, cls: type[D]) -> Registry[D]:
        entries: list[Entry[D]] = [entry for entry in self._entries if isinstance(entry.component, cls)]
        return Registry(cls.kind, settle(cls.kind, entries, self._preferences, self._complaints))

    def _implementations(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., Any]]]:
        """Who implements a hook, with a call that blames the plugin for what goes wrong.

        Not pluggy's own call: that would return answers without saying whose they are.
        """
        plugins = {plugin.name: plugin for plugin in self._plugins if plugin.active}
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin_name in plugins:  # what proved broken is registered still, and left out
                plugin = plugins[implementation.plugin_name]
                yield plugin, self._blaming(plugin, hook, implementation)

    def _blaming(self, plugin: Plugin, hook: str, implementation: pluggy.HookImpl) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            try:
                answer = implementation.function(*(arguments[name] for name in implementation.argnames))
                if isinstance(answer, Iterator):
                    answer = list(answer)  # a generator's errors are the plugin's as well
            except (ModelError, SettingsError):
                raise  # files of the model or options are wrong, not the plugin
            except (Exception, SystemExit) as error:
                raise plugin.source.error(f"{hook}: {explain(error)}") from error
            if self._trace is not None:
                self._trace(f"{hook} [{plugin.name}] -> {answer!r}")
            return answer

        return call

    def _complain(self, plugin: Plugin, error: PluginError) -> None:
        self._complaints.report(error)
        self._replace(plugin, plugin.broken(error))

    def _replace(self, plugin: Plugin, new: Plugin) -> None:
        self._plugins = [new if known is plugin else known for known in self._plugins]

    def _parse_preferences(self) -> list[Preference]:
        try:
            return parse_preferences(self._prefer, tuple(kind.name for kind in KINDS))
        except PluginError as error:
            self._complaints.report(error)
            return []


def _checked(plugin: Plugin, hook: str, answer: object, cls: type[D]) -> list[D]:
    if not isinstance(answer, Iterable):
        raise plugin.source.error(wrong_type(hook, "returned", answer, cls))
    items = list(answer)
    for item in items:
        if not isinstance(item, cls):
            raise plugin.source.error(wrong_type(hook, "gave", item, cls))
    return items


def _check_declarations(plugin: Plugin, items: Iterable[Declared]) -> None:
    for item in items:
        try:
            check_declaration(item)
        except PluginError as error:
            raise plugin.source.error(str(error)) from None


def _entry(plugin: Plugin, item: Any) -> Entry[Any]:
    source = plugin.source
    return Entry(
        kind=item.kind,
        component=item,
        plugin=source.name,
        origin=source.origin,
        distribution=source.distribution,
        version=source.version,
        path=source.path,
        where=where(item.schema if isinstance(item, ConfigSection) else item.build),
    )
