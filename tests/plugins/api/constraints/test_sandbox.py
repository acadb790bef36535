"""The process that tries constraints out: crashes, runaways and hoards of memory end one constraint, and no other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from maxserve.core.config import Settings
from maxserve.core.interfaces.errors import ModelError, QueueFullError, RequestError
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.options import PluginOptions
from maxserve.core.runtime.restored import packed as packed_plugins
from maxserve.plugins.api.constraints import sandbox as constraint_sandbox
from maxserve.plugins.api.constraints.messages import Begin, Frames, Outcome, packed
from maxserve.plugins.api.constraints.process import READY
from maxserve.plugins.api.constraints.sandbox import Sandbox
from maxserve.testing.grammar import EOS, VOCABULARY

pytestmark = pytest.mark.anyio

TRICKS = """
import ctypes, os, time
from maxserve import GrammarBackend, hookimpl
from maxserve.core.interfaces.errors import GrammarUnsupported

class Matcher:
    def __init__(self, text): self.text = text
    def accept(self, token): pass
    def rollback(self, count): pass
    def finished(self): return False
    def fill(self, row):
        row[:] = 0 if self.text == "nothing" else -1

class Deep:
    def __init__(self, inner): self.inner = inner
    def __repr__(self): return repr(self.inner)

class Panic(BaseException): pass

class Compiler:
    def __init__(self, context): pass
    def check(self, kind, text):
        if text == "refused": raise GrammarUnsupported("keyword 'x' at $.a is not supported", path="$.a", invalid=True)
    def cached(self, kind, text): return False
    def compile(self, kind, text):
        if text == "crash": ctypes.string_at(0)
        if text == "abort": os.abort()
        if text == "exit": os._exit(7)
        if text == "memory": bytearray(1 << 40)
        if text == "raise": raise KeyError("what it stumbled over")
        if text == "panic": raise Panic("native code")
        if text.startswith("spin"):
            end = time.process_time() + float(text[4:])
            while time.process_time() < end: pass
        if text == "pid": raise KeyError(os.getpid())
        if text == "print": print("this is not for the parent" * 10, flush=True)
        return lambda: Matcher(text)

@hookimpl
def maxserve_grammar_backends():
    yield GrammarBackend(name="tricks", build=Compiler, accepts=frozenset({"regex"}))
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Begin:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "tricky_grammar.py").write_text(TRICKS)
    sys.path.insert(0, str(folder))
    try:
        host = PluginHost.discover(PluginOptions(plugin=("tricky_grammar",), autoload=False), strict=True)
    finally:
        sys.path.remove(str(folder))
    return Begin(
        plugins=packed_plugins(host, Settings()),
        search_path=(str(folder), *sys.path),
        vocabulary=VOCABULARY,
        eos_token_ids=EOS,
        vocab_size=len(VOCABULARY),
        tokenizer_path="",
    )


@pytest.fixture
async def sandbox(begin: Begin) -> AsyncIterator[Sandbox]:
    made = Sandbox(lambda: begin)
    yield made
    made.close()


def said(outcome: Outcome) -> str:
    assert outcome.refused is not None
    return outcome.refused


async def test_what_compiles_comes_back_with_its_form(sandbox: Sandbox) -> None:
    schema = json.dumps({"type": "integer", "x-order": 3})
    found = await sandbox.outcome("llguidance", "json_schema", schema)
    assert (found.kind, found.refused) == ("llguidance", None)
    assert "'x-order'" in found.warnings[0]
    again = await sandbox.outcome("llguidance", found.kind, found.text)
    assert again.text == found.text


async def test_refusals_keep_their_words(sandbox: Sandbox) -> None:
    found = await sandbox.outcome("tricks", "regex", "refused")
    assert (found.refused, found.path, found.invalid) == ("keyword 'x' at $.a is not supported", "$.a", True)
    assert "only the empty one" in said(await sandbox.outcome("tricks", "regex", "nothing"))
    assert "'absent'" in said(await sandbox.outcome("absent", "regex", "a"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crash", "nest it less"),
        ("abort", "nest it less"),
        ("exit", "nest it less"),
        ("memory", "MiB of memory"),
        ("raise", "failed at it: 'what it stumbled over'"),
        ("panic", "failed at it: native code"),
    ],
)
async def test_what_breaks_is_refused_and_the_next_one_is_served(sandbox: Sandbox, text: str, words: str) -> None:
    assert words in said(await sandbox.outcome("tricks", "regex", text))
    assert (await sandbox.outcome("tricks", "regex", "fine")).refused is None


async def test_a_chain_of_rules_that_ends_a_process(sandbox: Sandbox) -> None:
    """Past the check of its rules, as a form that the back end's `check` has made: its native parser overflows."""
    chain = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(3000)) + '\nr3000: "b"\n'
    assert "lead from one to the next 3002 times" in said(await sandbox.outcome("llguidance", "grammar", chain))
    own = json.dumps({"grammars": [{"lark_grammar": chain}]})
    assert "MiB of stack" in said(await sandbox.outcome("llguidance", "llguidance", own))


async def test_what_is_printed_does_not_disturb(sandbox: Sandbox) -> None:
    assert (await sandbox.outcome("tricks", "regex", "print")).refused is None
    assert (await sandbox.outcome("tricks", "regex", "fine")).refused is None


async def test_processor_time_is_limited(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "impatient.py").write_text(
        "from maxserve.plugins.api.constraints import process\nprocess.SECONDS = 1\nprocess.main()\n"
    )
    command = (sys.executable, "-P", str(tmp_path / "impatient.py"))
    monkeypatch.setattr(constraint_sandbox, "COMMAND", command)
    sandbox = Sandbox(lambda: begin)
    assert "1 s of processor time" in said(await sandbox.outcome("tricks", "regex", "spin20"))
    sandbox.close()


async def test_a_fork_serves_many_and_is_replaced(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.py").write_text(
        "from maxserve.plugins.api.constraints import process\nprocess.LIFE = 3\nprocess.main()\n"
    )
    monkeypatch.setattr(constraint_sandbox, "COMMAND", (sys.executable, "-P", str(tmp_path / "short.py")))
    sandbox = Sandbox(lambda: begin)
    pids = [said(await sandbox.outcome("tricks", "regex", "pid")) for _ in range(9)]
    assert max(pids.count(pid) for pid in pids) == 3
    assert len(set(pids)) in (3, 4)
    assert sandbox._process is not None
    sandbox.close()


async def test_slow_ones_hold_up_absent(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraint_sandbox, "SLICE", 0.1)
    await sandbox.outcome("tricks", "regex", "fine")
    slow = [asyncio.ensure_future(sandbox.outcome("tricks", "regex", f"spin{20 + i}")) for i in range(5)]
    for i in range(5):
        assert (await sandbox.outcome("tricks", "regex", f"fine{i}")).refused is None
    assert not any(each.done() for each in slow)
    async with asyncio.timeout(60):  # the last of them may be in its first slice still
        while (len(sandbox._slow), len(sandbox._held)) != (2, 3):
            await asyncio.sleep(0.02)
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert not any((sandbox._jobs, sandbox._quick, sandbox._slow, sandbox._held))


async def test_more_slow_ones_than_can_wait_are_sent_away(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraint_sandbox, "SLICE", 0.02)
    slow = [asyncio.ensure_future(sandbox.outcome("tricks", "regex", f"spin{20 + i}")) for i in range(7)]
    done, _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert len(done) == 1
    with pytest.raises(QueueFullError, match="take long"):
        done.pop().result()
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_slow_ones_end_one_after_the_other(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraint_sandbox, "SLICE", 0.05)
    found = await asyncio.gather(*(sandbox.outcome("tricks", "regex", f"spin0.3{i}") for i in range(5)))
    assert [each.refused for each in found] == [None] * 5
    assert all(each.seconds >= 0.3 for each in found)


async def test_the_process_is_started_again(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    waiting = asyncio.ensure_future(sandbox.outcome("tricks", "regex", "spin20"))
    while not sandbox._quick:
        await asyncio.sleep(0.01)
    assert sandbox._process is not None
    os.kill(sandbox._process.pid, signal.SIGKILL)
    with pytest.raises(RequestError, match="ended unexpectedly") as raised:
        await waiting
    assert raised.value.status == 503
    assert (await sandbox.outcome("tricks", "regex", "fine")).refused is None
    assert "another one is started" in caplog.text


async def test_closing_ends_everything(begin: Begin) -> None:
    sandbox = Sandbox(lambda: begin)
    waiting = asyncio.ensure_future(sandbox.outcome("tricks", "regex", "spin20"))
    while not sandbox._quick:
        await asyncio.sleep(0.01)
    sandbox.close()
    for _ in range(2):
        with pytest.raises(RequestError) as raised:
            await waiting
        assert raised.value.status == 503
        waiting = asyncio.ensure_future(sandbox.outcome("tricks", "regex", "fine"))
    waiting.cancel()


def pipes_of(pid: int) -> list[str]:
    """The pipes that a process holds an end of, beside its standard output and errors."""
    found = []
    for fd in range(3, 30):
        with suppress(OSError):  # not open, or the process has ended
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return [name for name in found if name.startswith("pipe:")]


def holds_both_ends(process: psutil.Process) -> bool:
    pipes = pipes_of(process.pid)
    return len(pipes) > len(set(pipes))


async def test_forks_end_with_their_parent(sandbox: Sandbox) -> None:
    """Also those that were begun when it ended: nothing holds the other end of their pipes but the parent."""
    await sandbox.outcome("llguidance", "regex", "a")
    assert sandbox._process is not None
    forks = psutil.Process(sandbox._process.pid).children()
    assert forks
    closed = time.monotonic() + 20  # one that has just begun still has the ends that it closes first of all
    while any(map(holds_both_ends, forks)):
        assert time.monotonic() < closed, "it holds both ends of a pipe"
        await asyncio.sleep(0.01)
    sandbox.close()
    _, alive = psutil.wait_procs(forks, timeout=20)
    assert not alive


async def test_forks_come_with_the_first_constraint(sandbox: Sandbox) -> None:
    """A server that gets none has no memory for them."""
    assert "'absent'" in said(await sandbox.outcome("absent", "regex", "a"))
    assert sandbox._process is not None
    process = psutil.Process(sandbox._process.pid)
    assert process.children() == []
    await sandbox.outcome("llguidance", "regex", "a")
    await sandbox.outcome("llguidance", "regex", "b")
    assert len(process.children()) == READY


async def test_a_model_without_texts_refuses() -> None:
    def begin() -> Begin:
        raise ModelError("structured output needs the bytes of single tokens")

    sandbox = Sandbox(begin)
    sandbox.start()
    with pytest.raises(RequestError, match="bytes of single tokens"):
        await sandbox.outcome("llguidance", "regex", "a")
    sandbox.close()


async def test_the_process_is_light(sandbox: Sandbox) -> None:
    """It imports neither torch nor the server's framework."""
    await sandbox.outcome("llguidance", "regex", "a")
    assert sandbox._process is not None
    maps = Path(f"/proc/{sandbox._process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc on this system")
    loaded = maps.read_text()
    assert not any(name in loaded for name in ("libtorch", "uvloop", "tokenizers"))


def test_frames_come_in_any_pieces() -> None:
    messages = [Outcome(id=i, text="x" * i * 50) for i in range(5)]
    data = b"".join(map(packed, messages))
    for size in (1, 7, len(data)):
        frames = Frames()
        bodies = [body for i in range(0, len(data), size) for body in frames.feed(data[i : i + size])]
        assert len(bodies) == 5
