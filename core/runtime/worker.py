"""The process that owns an engine: `python -m maxserve.core.runtime.worker`, started by the API process only.

Where ranks share a model, the others are this program, too, and follow the first. It reads a Start message from its
standard input, makes the plugins and the engine, and then takes requests and gives outputs over its sockets. One that
has the process id of its parent as an argument has begun before there is a message. SIGINT and SIGTERM are the parent's
to answer; a worker ends when it is asked to, or when its parent is gone.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from maxserve.core.config import Settings
from maxserve.core.config.components import asked_task, check_for_task, with_required
from maxserve.core.interfaces.engine import GivesBack, ServesAdapters
from maxserve.core.interfaces.errors import RequestError, UsageError, cause
from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.loading.tasks import OwnContext
from maxserve.core.registry.entries import load_ref
from maxserve.core.registry.host import PluginHost, ProcessInfo
from maxserve.core.registry.protocol import Host
from maxserve.core.runtime import logs, messages
from maxserve.core.runtime.heap import give_back, settle_heap
from maxserve.core.runtime.lifeline import end_with_parent, hold, read_start
from maxserve.core.runtime.sockets import WorkerChannel

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelFiles, ModelInfo, ServedEngine
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.runtime.ranks import Rank, RankGroup

log = logging.getLogger("maxserve.worker")

PAUSE = 0.01  # seconds between two empty steps
POLL = 0.005  # seconds between two looks at adapters that are being read, at the start
PEER_PATIENCE = 0.5  # seconds until an error of one of several ranks is reported
FAILED = 1  # exit status of a rank that failed, if it is not ended before
REST = 2.0  # seconds without work until memory that is free goes back to the system


class Reporter:
    """Sends how far the start has come, a message per phase and per percent."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._text = ""
        self._percent = -1

    def phase(self, text: str) -> None:
        self._text, self._percent = text, -1
        self._channel.send(messages.Phase(text=text))

    def advance(self, fraction: float) -> None:
        percent = int(fraction * 100)
        if percent != self._percent:
            self._percent = percent
            self._channel.send(messages.Phase(text=self._text, fraction=fraction))


class Loop:
    """Alternates between messages and steps; sleeps on the socket when there is nothing to run, or nothing yet.

    An engine with empty steps (`--execute-empty-batches`) runs one of them after every sleep, which then ends after
    PAUSE at the latest: other devices may be waiting for this one, and a step without requests costs 1 % or so.
    """

    def __init__(self, engine: ServedEngine, channel: WorkerChannel) -> None:
        self._engine = engine
        self._channel = channel
        self._rejected: list[messages.RequestRejected] = []
        self._stopping = False
        self._pause = PAUSE if engine.empty_steps else None
        self._worked = False  # since memory was last given back

    def run(self) -> None:
        """Returns when a Shutdown came."""
        while True:
            heard = False
            for message in self._channel.receive(timeout=self._sleep()):
                self._handle(message)
                heard = True
            if self._stopping:
                return
            busy = self._engine.busy
            if self._resting and not heard:
                if isinstance(self._engine, GivesBack):
                    self._engine.give_back()
                give_back()  # the arrays of long prompts leave holes that make a tenth of a small model
                self._worked = False
            self._worked |= busy
            outputs = self._engine.step() if busy or self._engine.empty_steps else []
            if busy or heard:
                self._report(outputs)

    @property
    def _resting(self) -> bool:
        """Whether there was work, of which unused memory may be left, and now there is none."""
        return self._worked and self._pause is None and self._engine.pause is None

    def _sleep(self) -> float | None:
        """Seconds to wait for a message at most; None: until there is one."""
        if self._resting:
            return REST
        pause = self._engine.pause
        if self._pause is None or pause == 0:
            return pause
        return self._pause if pause is None else min(pause, self._pause)

    def _handle(self, message: messages.ToWorker) -> None:
        match message:
            case messages.Submit(requests=requests) | messages.Encode(requests=requests):
                for request in requests:
                    self._add(request)
            case messages.ChangeAdapters(changes=changes):
                for change in changes:
                    self._change(change)
            case messages.Abort(ids=ids):
                self._engine.abort(ids)
            case messages.ResetPrefixCache():
                log.info("prefix cache reset, %d pages freed", self._engine.reset_prefix_cache())
            case messages.Shutdown():
                self._stopping = True

    def _add(self, request: Request | EncodeRequest) -> None:
        self._try(request.id, lambda: self._engine.add(request))

    def _change(self, change: AdapterChange) -> None:
        engine = self._engine
        if isinstance(engine, ServesAdapters):
            self._try(change.id, lambda: engine.change_adapter(change))
        else:
            self._refuse(change.id, RequestError(f"{engine.info.name!r} is served without adapters"))

    def _try(self, id: str, admit: Callable[[], None]) -> None:
        try:
            admit()
        except RequestError as error:
            self._refuse(id, error)
        except Exception as error:  # a plugin's, about this request: the others and the worker go on
            log.exception("request %s could not be admitted", id)
            self._refuse(id, RequestError(f"the request could not be admitted: {cause(error)}", status=500))

    def _refuse(self, id: str, error: RequestError) -> None:
        refusal = messages.RequestRejected(
            id=id, message=error.message, param=error.param, code=error.code, status=error.status
        )
        self._rejected.append(refusal)

    def _report(self, given: Sequence[Output | Encoded]) -> None:
        if isinstance(self._engine, ServesAdapters):
            for id, error in self._engine.rejected_changes():
                self._refuse(id, error)
        rejected, self._rejected = tuple(self._rejected), []
        outputs = tuple(each for each in given if isinstance(each, Output))
        encoded = () if len(outputs) == len(given) else tuple(each for each in given if isinstance(each, Encoded))
        stats = self._engine.stats()
        self._channel.send(messages.Outputs(outputs=outputs, stats=stats, rejected=rejected, encoded=encoded))


def main() -> None:
    """Runs a worker's life."""
    faulthandler.enable()  # a crash in native code says where
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # what is imported and built now stays; looking through it for garbage takes a tenth of the start
    if parents := sys.argv[1:]:
        _import_ahead(int(parents[0]))
    start = read_start(sys.stdin.buffer)
    lifeline = hold(sys.stdin.fileno(), start.parent)
    sys.path[:] = start.search_path
    settings = Settings.model_validate_json(start.settings)
    logs.configure(_log_level(start), settings.server.log_prefix)
    work(start, settings, lifeline.join)


def _log_level(start: messages.Start) -> int:
    """What is logged: of ranks that follow, what the first one does not say in their place."""
    follows = start.rank is not None and start.rank.number > 0
    return logging.WARNING if follows and start.log_level == logging.INFO else start.log_level


def _import_ahead(parent: int) -> None:
    """Imports what an engine most likely needs, before the start message of `parent` is there (see `ahead`)."""
    end_with_parent(parent)
    with suppress(Exception):  # what needs it says so
        import_module("torch")


def work(start: messages.Start, settings: Settings, wait_for_end: Callable[[], object]) -> None:
    """Serves until it is asked to stop. After a failure it calls `wait_for_end`: the parent hears of it first."""
    channel = WorkerChannel(start.endpoints)
    process = ProcessInfo(kind="worker")
    try:
        _serve(start, settings, channel, process, wait_for_end)
    except Exception as error:
        if start.rank is None:
            _tell(channel, error)
            wait_for_end()
        else:
            _fail(channel, wait_for_end, error)
    process.exit()
    channel.close()


def _tell(channel: WorkerChannel, error: Exception) -> None:
    """Tells the API process why this one cannot go on."""
    usage = isinstance(error, UsageError)
    if not usage:
        log.error("the worker failed", exc_info=error)
    message = str(error) if usage else f"{type(error).__name__}: {error}"
    channel.send(messages.Failed(message=message, kind="usage" if usage else "engine"))


def _fail(channel: WorkerChannel, wait_for_end: Callable[[], object], error: Exception) -> NoReturn:
    """The same for one of several ranks; does not return, since the others may wait for this one for ever.

    Where another one is gone, the supervisor sees that by itself, and knows better than this one what happened.
    """
    if not isinstance(error, UsageError):
        time.sleep(PEER_PATIENCE)
    _tell(channel, error)
    wait_for_end()
    os._exit(FAILED)


def _serve(
    start: messages.Start,
    settings: Settings,
    channel: WorkerChannel,
    process: ProcessInfo,
    wait_for_end: Callable[[], object],
) -> None:
    host = PluginHost.from_manifest(start.manifest)
    channel.send(messages.Hello(pid=os.getpid(), fingerprint=host.fingerprint))
    host.process_start(process)
    reporter = Reporter(channel)
    files = start.files
    if files is None:  # --defer-resolve: the model is not resolved yet
        files = resolve_model(
            settings.model,
            host,
            progress=reporter,
            prefer_legacy=settings.model.use_legacy_module,
            task=asked_task(settings),
        )
        check_for_task(settings, files.task, host.plugin_sections())
        settings = with_required(settings, host.architectures.get(files.architecture).component, host.plugin_sections())
    group = None if start.rank is None else _group(start.rank, partial(_fail, channel, wait_for_end))
    if group is not None and not group.leads:
        _follow(settings, host, files, group)
        return
    engine = _engine(start, settings, host, files, reporter, group)
    settle_heap()  # nor do collections among steps look through it
    info = with_changes(engine, start.changes, partial(_reads, channel))
    channel.send(messages.Ready(info=info))
    engine.serve_grammars(channel.wake)
    try:
        Loop(engine, channel).run()
    finally:
        engine.close()
    if group is not None:
        group.close()


def _group(rank: Rank, failed: Callable[[Exception], NoReturn]) -> RankGroup:
    group: RankGroup = load_ref(rank.group)(rank, failed)
    return group


def _follow(settings: Settings, host: Host, files: ModelFiles, group: RankGroup) -> None:
    """Computes a part of each step of the first rank, until that ends."""
    from maxserve.core.assembly.assemble import build_follower

    runner = build_follower(settings, host, files, progress=NullProgress(), group=group)
    settle_heap()
    group.follow(runner)
    group.close()


def with_changes(
    engine: ServedEngine, changes: Iterable[AdapterChange], reads: Callable[[str], None] = lambda name: None
) -> ModelInfo:
    """The engine's info, once it serves the adapters that a worker before it did.

    `reads` is called with the name of each before it is read, which may end the process, and with "" at the end. One
    that cannot be had any more is not served: another one of the name is not what clients were promised.
    """
    if not isinstance(engine, ServesAdapters):
        return engine.info
    for change in changes:
        again = replace(change, replace=True, wait=False)
        reads(change.name if again.action == "load" else "")
        if (again.action == "load" or change.name in engine.adapters) and (error := _change_now(engine, again)):
            log.warning("the adapter %s, which the worker before had, cannot be loaded: %s", change.name, error.message)
            if change.name in engine.adapters:
                _change_now(engine, replace(again, action="unload"))
    reads("")
    adapters = dict(engine.adapters)
    return replace(engine.info, adapters=tuple(adapters), adapter_sources=adapters)


def _reads(channel: WorkerChannel, name: str) -> None:
    """Returns once the API process knows that the adapter `name` is read now; nothing else is sent before Ready."""
    channel.send(messages.ReadsAdapter(name=name))
    while not any(isinstance(message, messages.Heard) for message in channel.receive(timeout=None)):
        pass


def _change_now(engine: ServedEngine, change: AdapterChange) -> RequestError | None:
    """Makes a change while nothing runs; returns why it could not be made."""
    assert isinstance(engine, ServesAdapters), "it has adapters"
    try:
        engine.change_adapter(change)
    except RequestError as error:
        return error
    while not any(output.id == change.id for output in engine.step()):
        if rejected := engine.rejected_changes():
            return rejected[0][1]
        time.sleep(POLL)
    return None


def _engine(
    start: messages.Start,
    settings: Settings,
    host: Host,
    files: ModelFiles,
    progress: Progress,
    group: RankGroup | None,
) -> ServedEngine:
    if start.engine is not None:
        engine: ServedEngine = load_ref(start.engine)(OwnContext(settings, host, files, progress, group))
        return engine
    from maxserve.core.loading.model_loader import build_served  # imports torch

    return build_served(settings, host, files, progress, group)


if __name__ == "__main__":
    main()
    logging.shutdown()
    # Python would spend seconds on taking torch apart, while the operator waits; the kernel is quicker.
    os._exit(0)
