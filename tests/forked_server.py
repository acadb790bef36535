"""Servers in forks of one process that has imported what a server takes: `python forked_server.py FOLDER`.

A line of standard input asks for one: JSON of its `argv`, `env`, and the `output` that its lines go to, a named pipe.
The answer is its process id. When it ends, its exit status is in the file `output`.status. Its worker is a thread of
it (`--executor thread`), by a plugin that lies in FOLDER; models for which both sides import parts of transformers, as
those for images, are served by processes of their own, since two threads that do so may wait for each other.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

PLUGIN = """
from maxserve import Executor, hookimpl


@hookimpl
def maxserve_executors():
    yield Executor(name="thread", build="maxserve.testing.executor:ThreadLauncher")
"""
SHARED = ("maxserve.core.cli.run", "maxserve.core.runtime.serving", "maxserve.core.assembly.assemble")


def _import_all() -> None:
    """What the API process and the worker import, the routes among it."""
    for name in SHARED:
        importlib.import_module(name)
    from maxserve.core.interfaces.routes import Routes
    from maxserve.core.registry.host import PluginHost, PluginOptions

    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    for entry in host.of(Routes):
        host.load(entry, entry.component.build)


def _serve(argv: list[str], env: dict[str, str], output: str) -> NoReturn:
    status = 99
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        written = os.open(output, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(written, stream)
        os.close(written)
        os.environ.update(env)
        os.chdir(sys.prefix)
        from maxserve.core.cli.run import run

        status = run(argv, os.environ)
    except BaseException as error:
        print(repr(error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{output}.status").write_text(str(status))
        os._exit(status)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    Path(sys.argv[1], "thread_executor.py").write_text(PLUGIN)
    gc.disable()
    _import_all()
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended servers leave nothing behind
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            answers.close()
            _serve(**json.loads(line))
        print(child, file=answers, flush=True)
