"""The folder of socket files.

Each server has a folder of its own, and holds a lock on a file in it for as long as it lives, however it ends. The next
server that starts removes the folders whose locks are free.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maxserve.interfaces.errors import SettingsError

PREFIX = "maxserve-"
LOCK = "lock"
SHORT = "/tmp"  # where sockets lie when TMPDIR is too long a path for them
LONGEST = 85  # bytes of the folder's path, of the 107 that the path of a socket in it may have


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter; gone afterwards, or with the start of the next server."""
    folder = _made()
    held = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _made() -> Path:
    """A new folder of mode 0700; SettingsError where there is no place for one."""
    try:
        remove_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        if len(os.fsencode(folder)) <= LONGEST:
            return folder
        folder.rmdir()
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHORT))
    except OSError as error:  # tempfile tells of no place at all by FileNotFoundError
        raise SettingsError(
            f"there is no temporary folder that can be written ({error.strerror}): set TMPDIR to one, or name a place "
            "for the sockets with --zmq-endpoint-base ipc://PATH"
        ) from error


def remove_abandoned() -> None:
    """Removes the folders of servers that ended without removing them."""
    places = dict.fromkeys((tempfile.gettempdir(), SHORT))
    for lock in (lock for place in places for lock in Path(place).glob(f"{PREFIX}*/{LOCK}")):
        with suppress(OSError):  # another user's, in use, or removed by another process just now
            held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
            finally:
                os.close(held)


def _lock(folder: Path) -> int:
    """The descriptor that holds the folder's lock; it bears its name only once it is held."""
    fresh = folder / "lock.new"
    held = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    fresh.rename(folder / LOCK)
    return held
