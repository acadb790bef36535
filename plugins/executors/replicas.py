"""What the replicas of a model have of one machine: their devices, and parts of the memory that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve.config import cpu_ranks, gpu_numbers

if TYPE_CHECKING:
    from maxserve.options import Settings


def shares(devices: str, parts: int) -> tuple[str, ...]:
    """A `devices` value in equal parts, which are such values; `parts` is 1 or divides how many it names."""
    if parts == 1:
        return (devices,)
    if devices.startswith("cpu"):
        ranks = cpu_ranks(devices) // parts
        return (("cpu:" + ",".join(map(str, range(ranks)))) if ranks > 1 else "cpu",) * parts
    numbers = gpu_numbers(devices)
    each = len(numbers) // parts
    return tuple("gpu:" + ",".join(map(str, numbers[i : i + each])) for i in range(0, len(numbers), each))


def replica_settings(settings: Settings) -> list[Settings]:
    """What each is started with: its number, its part of the devices, and of the memory that those on CPUs share."""
    degree = settings.model.data_parallel_degree
    if degree == 1:
        return [settings]
    shared = degree if settings.model.devices.startswith("cpu") else 1
    cache = settings.kv_cache
    parts = {
        "device_memory_utilization": cache.device_memory_utilization / shared,
        "host_kvcache_swap_space_gb": cache.host_kvcache_swap_space_gb / shared,
    }
    return [
        settings.model_copy(
            update={
                "model": settings.model.model_copy(update={"devices": devices, "data_parallel_degree": 1}),
                "kv_cache": cache.model_copy(update=parts),
                "server": settings.server.model_copy(update={"replica": number}),
            }
        )
        for number, devices in enumerate(shares(settings.model.devices, degree))
    ]
