"""Options of servers that share the work on requests: who computes prompts, and how keys and values travel."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from maxserve.config import Choice, cpu_ranks, is_loopback
from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.config import Settings

BOTH, PREFILL, DECODE = "prefill_and_decode", "prefill_only", "decode_only"
log = logging.getLogger("maxserve.settings")

ROLES = Choice("PipelineRole", (BOTH, PREFILL, DECODE))
DEFAULT_BIND = "tcp://127.0.0.1:5555"
GENERATION = Option(used_by="generation")


@dataclass(frozen=True, slots=True)
class RoleOptions:
    """What a server does of the work on a request."""

    pipeline_role: Annotated[
        str,
        ROLES,
        Option(used_by="generation"),
        Field(
            description="Whether this server computes prompts for others, has them computed by others, or does both "
            "itself."
        ),
    ] = BOTH


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How keys and values of prompts come from who computes them to who answers."""

    bind: Annotated[
        str | None,
        Option(metavar="ADDRESS", used_by="generation", env=("MAX_SERVE_DI_BIND_ADDRESS",)),
        Field(
            description="Where a server that computes prompts is asked for them, tcp://HOST:PORT or ipc://PATH; a "
            f"prefill_only server takes {DEFAULT_BIND} otherwise. Nothing is encrypted or checked."
        ),
    ] = None
    advertise: Annotated[
        str | None,
        Option(metavar="HOST:PORT", used_by="generation"),
        Field(
            description="The address that others are told in kv_transfer_params; else this host's and the port bound."
        ),
    ] = None
    transport: Annotated[
        str,
        Option(metavar="NAME", registry="transports", used_by="generation"),
        Field(description="What moves keys and values: tcp, nixl, or a name that a plugin registers.", min_length=1),
    ] = "tcp"
    on_failure: Annotated[
        Literal["fail", "recompute"],
        GENERATION,
        Field(description="What becomes of a request whose prompt is not to be had: 503, or it is computed here."),
    ] = "fail"
    lease: Annotated[
        float,
        Option(metavar="SECONDS", used_by="generation"),
        Field(description="How long a computed prompt is kept for a server that has not been heard since.", gt=0),
    ] = 30.0
    timeout: Annotated[
        float,
        Option(metavar="SECONDS", used_by="generation"),
        Field(description="How long a server that computes prompts may be silent until it counts as gone.", gt=0),
    ] = 10.0

    def wanted(self, role: str) -> bool:
        """Whether anything is exchanged at all."""
        return role != BOTH or self.bind is not None

    def address(self, role: str) -> str | None:
        """Where to listen; None for a server that computes no prompts for others."""
        if role == DECODE:
            return None
        return self.bind or (DEFAULT_BIND if role == PREFILL else None)

    def advertised(self, bound: str) -> str:
        """HOST:PORT for others; empty where nothing of tcp is bound."""
        if self.advertise is not None or not bound.startswith("tcp://"):
            return self.advertise or ""
        host, _, port = bound.removeprefix("tcp://").rpartition(":")
        return f"{_own_address() if host in ('0.0.0.0', '[::]', '*') else host}:{port}"


def check_role(settings: Settings, own: RoleOptions) -> None:
    """SettingsError for several processes of a model; warns of a server that cannot be asked anything."""
    role = own.pipeline_role
    if role != BOTH:
        _check_processes(settings, f"--pipeline-role {role}", binds=role == PREFILL)
    if settings.server.headless and role != PREFILL:
        log.warning(
            "--headless: a server with --pipeline-role %s is asked over HTTP, and this one never is; leave it out, or "
            "take --pipeline-role prefill_only",
            role,
        )


def check(settings: Settings, own: TransferSettings) -> None:
    """SettingsError for addresses that cannot be, and for several processes of a model; warns of an open one."""
    if own.bind is not None and not own.bind.startswith(("tcp://", "ipc://")):
        raise SettingsError(f"--transfers.bind {own.bind}: expected tcp://HOST:PORT or ipc://PATH")
    if own.advertise is not None and not own.advertise.rpartition(":")[2].isdecimal():
        raise SettingsError(f"--transfers.advertise {own.advertise}: expected HOST:PORT")
    if own.bind is not None:
        _check_processes(settings, f"--transfers.bind {own.bind}", binds=True)
        _warn_if_open(own.bind)


def _check_processes(settings: Settings, option: str, *, binds: bool) -> None:
    model = settings.model
    if cpu_ranks(model.devices) > model.data_parallel_degree:
        raise SettingsError(
            f"{option} does not go with --devices {model.devices} yet: each process has a part of the keys and values; "
            "name one device for each replica"
        )
    if binds and model.data_parallel_degree > 1:
        raise SettingsError(
            f"--data-parallel-degree {model.data_parallel_degree}: all replicas would listen at one address "
            f"({option}); start several servers instead"
        )


def _warn_if_open(bind: str) -> None:
    """Says so when others than this machine can reach the socket, which has no authentication."""
    host = bind.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if bind.startswith("tcp://") and not is_loopback(host):
        log.warning(
            "--transfers.bind %s: who reaches it can have prompts computed, and read the keys and values of others; "
            "nothing there is encrypted or asks for a key",
            bind,
        )


def _own_address() -> str:
    """The address of this machine by which the others are reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
