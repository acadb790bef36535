from __future__ import annotations

import pytest

from maxserve.core.config import resolve
from maxserve.plugins.executors.replicas import replica_settings, shares


@pytest.mark.parametrize(
    ("devices", "parts", "due"),
    [
        ("default", 1, ("default",)),
        ("cpu:0,1", 2, ("cpu", "cpu")),
        ("cpu:0,1,2,3", 2, ("cpu:0,1", "cpu:0,1")),
        ("gpu:2,0", 2, ("gpu:2", "gpu:0")),
        ("gpu:0,1,2,3", 2, ("gpu:0,1", "gpu:2,3")),
    ],
)
def test_devices_are_shared_out(devices: str, parts: int, due: tuple[str, ...]) -> None:
    assert shares(devices, parts) == due


def test_replicas_on_cpus_share_the_memory_and_those_on_gpus_have_their_own() -> None:
    one = resolve({"devices": "cpu"}, environ={})
    assert replica_settings(one) == [one]
    for devices, share, host in (("cpu:0,1", 0.4, 5.0), ("gpu:0,1", 0.8, 10.0)):
        typed = {"devices": devices, "device_memory_utilization": 0.8, "host_kvcache_swap_space_gb": 10.0}
        settings = resolve({**typed, "data_parallel_degree": 2}, environ={})
        parts = replica_settings(settings)
        assert [each.model.data_parallel_degree for each in parts] == [1, 1]
        assert tuple(each.model.devices for each in parts) == shares(devices, 2)
        assert [each.server.replica for each in parts] == [0, 1]
        cache = parts[1].kv_cache
        assert (cache.device_memory_utilization, cache.host_kvcache_swap_space_gb) == pytest.approx((share, host))
