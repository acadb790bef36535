"""The compilation of the sources for this processor.

The name of the library is a digest of everything that decides its content: sources, flags, compiler and processor. So
whatever changes gets a new file, and what is there is right. Several processes may compile at once; the last one to
finish puts its equal file in place.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from maxserve.interfaces.errors import Unavailable

log = logging.getLogger("maxserve.native")

SOURCES = Path(__file__).parent / "sources"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=gnu++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-fopenmp")
NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native"}
TIME_LIMIT = 300  # seconds


def compiled_library(compiler: str, folder: str) -> Path:
    """The library, compiled now if it is not there; Unavailable when it cannot be. Empty arguments: the defaults."""
    command = _command(compiler)
    kept = Path(folder).expanduser() if folder else default_folder()
    library = kept / f"{_digest(command)}.so"
    if not library.is_file():
        _make_private(kept)
        begun = time.monotonic()
        _compile(command, library)
        log.info("kernels compiled with %s in %.1f s: %s", Path(command[0]).name, time.monotonic() - begun, library)
    _check_owner(library)
    return library


def default_folder() -> Path:
    """Where compiled kernels are kept: below HOME, or in a private temporary folder where that cannot be written."""
    try:
        kept = Path.home() / ".cache" / "maxserve" / "native"
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(kept, os.W_OK):
            return kept
    except (OSError, RuntimeError):  # the latter where no user has that id
        pass
    return Path(tempfile.gettempdir()) / f"maxserve-native-{os.getuid()}"


def _command(compiler: str) -> list[str]:
    """Compiler and flags; Unavailable without a compiler."""
    names = (compiler,) if compiler else COMPILERS
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise Unavailable(f"there is no C++ compiler ({', '.join(names)}); install one, or name it: --native.compiler")
    return [found, *FLAGS, NATIVE.get(platform.machine(), "-mcpu=native")]


def _digest(command: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.read_bytes())
    digest.update(repr((*command, _version(command[0]), _processor())).encode())
    return digest.hexdigest()[:24]


def _version(compiler: str) -> str:
    """What tells one compiler from another without running it: that takes longer than all the rest."""
    stat = os.stat(compiler)
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _processor() -> str:
    """The instruction sets of this processor, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _compile(command: Sequence[str], library: Path) -> None:
    """Each source by a process of its own, then all into one library."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        units = sorted(SOURCES.glob("*.cpp"))
        objects = [str(Path(scratch) / f"{unit.stem}.o") for unit in units]
        _run([[*command, "-c", str(unit), "-o", made] for unit, made in zip(units, objects, strict=True)])
        made = Path(scratch) / "kernels.so"
        _run([[*command, "-shared", *objects, "-o", str(made)]])
        made.chmod(0o700)
        os.replace(made, library)


def _run(commands: Sequence[Sequence[str]]) -> None:
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = []
    for process in running:
        try:
            complaints.append(process.communicate(timeout=TIME_LIMIT)[1])
        except subprocess.TimeoutExpired:
            process.kill()
            complaints.append(process.communicate()[1] + f"gave up after {TIME_LIMIT} s")
    for process, text, command in zip(running, complaints, commands, strict=True):
        if process.returncode:
            reason = " ".join(text.replace(f"{Path(command[-1]).parent}{os.sep}", "").split())[:500]
            raise Unavailable(f"{command[0]} cannot compile the kernels: {reason}")


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"no place for compiled kernels: {error}; name another one: --native.folder") from error
    if not os.access(folder, os.W_OK):
        raise Unavailable(f"no place for compiled kernels: {folder} cannot be written; name another: --native.folder")


def _check_owner(library: Path) -> None:
    """What others may have written is not run."""
    for place in (library, library.parent):
        stat = place.stat()
        if stat.st_uid not in (0, os.getuid()) or stat.st_mode & 0o022:
            raise Unavailable(f"{place} can be written by others, so it is not run; name another: --native.folder")
