from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.runtime.executors import executor_context
from maxserve.core.runtime.messages import Start
from maxserve.core.runtime.openmp import WAITING, usable_cores
from maxserve.core.runtime.rank_addresses import first_rank, follower_starts
from maxserve.plugins.executors.private_folder import LONGEST

STUB = Path(__file__).parent / "stub"
PAIR = Endpoints(requests="ipc:///run/x/requests", outputs="ipc:///run/x/outputs")


@pytest.fixture
def start_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    monkeypatch.syspath_prepend(str(STUB))
    import starts  # type: ignore[import-not-found]

    return starts.start_of  # type: ignore[no-any-return]


@pytest.mark.parametrize("devices", ["cpu", "default", "gpu:0"])
def test_one_device_is_no_rank(devices: str) -> None:
    assert first_rank(PAIR, devices, 5.0, "acme.ranks:Group") is None


def test_followers_have_addresses_of_their_own(start_of: Callable[..., Start]) -> None:
    first = first_rank(PAIR, "cpu:0,1,2", 5.0, "acme.ranks:Group")
    assert first is not None
    assert (first.number, first.size, first.timeout, first.group) == (0, 3, 5.0, "acme.ranks:Group")
    followers = follower_starts(start_of(PAIR, rank=first))
    ranks = [follower.rank for follower in followers]
    assert [(rank.number, rank.group) for rank in ranks if rank is not None] == [(1, first.group), (2, first.group)]
    assert all(rank is not None and rank.steps == first.steps and rank.meeting == first.meeting for rank in ranks)
    given = [*first.steps, *(address for f in followers for address in (f.endpoints.requests, f.endpoints.outputs))]
    assert len({*given, PAIR.requests, PAIR.outputs}) == len(given) + 2
    assert follower_starts(start_of(PAIR)) == []


def test_addresses_fit_where_a_folder_is_as_long_as_it_may_be() -> None:
    folder = "/" + "x" * (LONGEST - 1)
    longest = Endpoints(requests=f"ipc://{folder}/requests", outputs=f"ipc://{folder}/outputs")
    first = first_rank(longest, "cpu:" + ",".join(map(str, range(64))), 5.0, "acme.ranks:Group")
    assert first is not None
    paths = [address.removeprefix("ipc://") for address in first.steps]
    assert max(map(len, paths)) <= zmq.IPC_PATH_MAX_LEN


@pytest.mark.parametrize("base", ["tcp://127.0.0.1:55", "ipc://@name"])
def test_steps_travel_by_files(base: str) -> None:
    pair = Endpoints(requests=f"{base}1", outputs=f"{base}2")
    with pytest.raises(SettingsError, match=r"--devices cpu:0,1: .*over ipc://; leave --zmq-endpoint-base out"):
        first_rank(pair, "cpu:0,1", 5.0, "acme.ranks:Group")


def test_ranks_share_the_cores() -> None:
    assert executor_context().environ == WAITING
    assert executor_context(ranks=2).environ == {**WAITING, "OMP_NUM_THREADS": str(max(1, usable_cores() // 2))}
    assert executor_context(ranks=1000).environ["OMP_NUM_THREADS"] == "1"
