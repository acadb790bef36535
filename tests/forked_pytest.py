"""Runs of pytest, each in a fork of one process that has imported what takes long: `python forked_pytest.py RUNS`.

RUNS is JSON: of each run its folder (`cwd`), what is put in front of the search path (`path`), and `args` for pytest.
The status and the output of each are printed, as JSON. What a run imports or changes no other run sees. Plugins of
pytest that happen to be installed stay away, as from an author who has the extra `testing` alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHARED_IS_FINE = "ignore:Module already imported so cannot be rewritten"  # of a plugin of pytest: anyio
SHARED = ("torch", "transformers.modeling_utils", "safetensors.torch", "fastapi", "httpx")


def _forked(cwd: str, path: Sequence[str], args: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        args = ["--basetemp", f"{folder}/basetemp", *args]  # that no other run tidies up
        child = os.fork()
        if not child:
            os._exit(_run(output.fileno(), cwd, path, args))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return {"status": status, "output": output.read()}


def _run(output: int, cwd: str, path: Sequence[str], args: Sequence[str]) -> int:
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(cwd)
        sys.path[:0] = path
        os.environ["PYTHONPATH"] = os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])
        importlib.invalidate_caches()
        import pytest

        return int(pytest.main(["-W", SHARED_IS_FINE, *args]))
    except BaseException as error:
        print(repr(error))
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    sys.dont_write_bytecode = True
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.disable()
    for name in SHARED:
        importlib.import_module(name)
    gc.freeze()  # or each run looks through all of it
    gc.enable()
    print(json.dumps([_forked(**run) for run in json.loads(sys.argv[1])]))
