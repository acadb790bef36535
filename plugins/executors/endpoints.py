"""Addresses at which the API process and its workers talk, on this machine or at tcp:// ports."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from maxserve.config import is_loopback
from maxserve.interfaces.errors import SettingsError
from maxserve.interfaces.executor import Endpoints
from maxserve.plugins.executors.private_folder import private_folder

if TYPE_CHECKING:
    from maxserve.config import Settings
    from maxserve.plugins.executors.options import EndpointOptions

log = logging.getLogger("maxserve.ipc")

IN_USE = "another server uses it; give each a base of its own, or leave the option out"


def check(settings: Settings, options: EndpointOptions) -> None:
    """SettingsError for a base that no address can begin with."""
    if options.zmq_endpoint_base is not None:
        _pair(options.zmq_endpoint_base)


@contextmanager
def endpoints(base: str | None, replica: int = 0) -> Iterator[Endpoints]:
    """Addresses of this machine for the workers of a replica: in a private folder, unless `base` says where.

    No socket file is left behind. SettingsError when `base` (`--zmq-endpoint-base`) cannot be used between processes.
    """
    if base is None:
        with private_folder() as folder:
            yield _pair(f"ipc://{folder}/worker")
        return
    base = _of_replica(base, replica)
    pair = _pair(base)
    _warn_if_open(base)
    with _alone(base):
        try:
            yield pair
        finally:
            for address in (pair.requests, pair.outputs):
                if address.startswith("ipc://"):
                    Path(address.removeprefix("ipc://")).unlink(missing_ok=True)


@contextmanager
def _alone(base: str) -> Iterator[None]:
    """Holds a base while the block runs; SettingsError where another server holds it.

    ZMQ would bind a second socket at an ipc:// path without a word, and the first server would hear nothing more. At
    tcp:// addresses binding fails, but in the worker, after the model was loaded.
    """
    if base.startswith("ipc://@"):  # a name of Linux that is no file, which cannot be bound twice
        yield
    elif base.startswith("ipc://"):
        with _locked(base):
            yield
    else:
        pair = _pair(base)
        for address in (pair.requests, pair.outputs):
            _validate_free(base, address)
        yield


@contextmanager
def _locked(base: str) -> Iterator[None]:
    lock = Path(f"{base.removeprefix('ipc://')}-lock")
    try:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"--zmq-endpoint-base {base}: {lock} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SettingsError(f"--zmq-endpoint-base {base}: {IN_USE}") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def _validate_free(base: str, address: str) -> None:
    """SettingsError for a tcp:// address at which something listens already."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(f"--zmq-endpoint-base {base}: {IN_USE}") from None


def _of_replica(base: str, replica: int) -> str:
    """The base that a replica has: of the first it is the one that was given, the others lie beside that."""
    head, _, port = base.rpartition(":")
    if replica and base.startswith("tcp://") and port.isdigit():
        return f"{head}:{int(port) + 2 * replica}"
    return f"{base}-replica{replica}" if replica else base


def _pair(base: str) -> Endpoints:
    scheme, _, rest = base.partition("://")
    if scheme == "tcp":
        return _tcp_pair(base, rest)
    if scheme == "ipc" and rest:
        pair = Endpoints(requests=f"{base}-requests", outputs=f"{base}-outputs")
        import zmq  # not where settings are only looked at

        longest = len(pair.requests.removeprefix("ipc://").encode())
        if longest > zmq.IPC_PATH_MAX_LEN:
            raise SettingsError(
                f"--zmq-endpoint-base {base}: its socket paths have {longest} bytes and this system allows "
                f"{zmq.IPC_PATH_MAX_LEN}; choose a shorter folder"
            )
        return pair
    if scheme == "inproc":
        raise SettingsError(
            f"--zmq-endpoint-base {base}: inproc:// cannot join two processes; use ipc://PATH or tcp://HOST:PORT"
        )
    raise SettingsError(f"--zmq-endpoint-base {base}: expected ipc://PATH or tcp://HOST:PORT")


def _tcp_pair(base: str, rest: str) -> Endpoints:
    """The port that was named and the one after it."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:*]+):(\d+)", rest)
    if match is None:
        raise SettingsError(f"--zmq-endpoint-base {base}: expected tcp://HOST:PORT with a host to connect to")
    host, port = match[1], int(match[2])
    if not 1 <= port <= 65534:
        raise SettingsError(
            f"--zmq-endpoint-base {base}: the port must be 1 to 65534, since it and the next one are used"
        )
    return Endpoints(requests=f"tcp://{host}:{port}", outputs=f"tcp://{host}:{port + 1}")


def _warn_if_open(base: str) -> None:
    """Says so when others than this machine can reach the sockets, which have no authentication."""
    scheme, _, rest = base.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme == "tcp" and not is_loopback(host):
        log.warning(
            "--zmq-endpoint-base %s: who reaches %s can read prompts and give orders to the worker; "
            "nothing there is encrypted or asks for a key",
            base,
            host,
        )
