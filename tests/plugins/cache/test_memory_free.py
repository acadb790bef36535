from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maxserve.plugins.cache.memory_plan import free_host_memory, free_memory

GIB = 1 << 30


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def meminfo(available: int) -> str:
    return f"MemTotal: 999 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total: 0"


def test_the_system_alone(tmp_path: Path) -> None:
    assert free_host_memory(write(tmp_path, {"proc/meminfo": meminfo(7 * GIB)})) == 7 * GIB


def test_a_control_group_of_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/user.slice/app"
    files = {
        "proc/meminfo": meminfo(64 * GIB),
        "proc/self/cgroup": "0::/user.slice/app",
        f"{group}/memory.max": 4 * GIB,
        f"{group}/memory.current": 3 * GIB,
        f"{group}/memory.stat": f"active_file 1\ninactive_file {GIB}",
    }
    assert free_host_memory(write(tmp_path, files)) == 2 * GIB
    outer = {"sys/fs/cgroup/user.slice/memory.max": 9 * GIB, "sys/fs/cgroup/user.slice/memory.current": 8 * GIB}
    assert free_host_memory(write(tmp_path, outer)) == GIB
    assert free_host_memory(write(tmp_path, {f"{group}/memory.max": "max"})) == GIB


def test_a_container_sees_its_group_at_the_base(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": meminfo(64 * GIB),
        "proc/self/cgroup": "0::/../../somewhere/else",
        "sys/fs/cgroup/memory.max": 2 * GIB,
        "sys/fs/cgroup/memory.current": GIB,
    }
    assert free_host_memory(write(tmp_path, files)) == GIB


def test_a_control_group_of_version_1(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": meminfo(64 * GIB),
        "proc/self/cgroup": "12:cpu,cpuacct:/x\n5:memory:/docker/abc\n1:name=systemd:/",
        "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 4 * GIB,
        "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": 3 * GIB,
        "sys/fs/cgroup/memory/docker/abc/memory.stat": f"total_inactive_file {GIB // 2}",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 50 * GIB,
    }
    assert free_host_memory(write(tmp_path, files)) == GIB + GIB // 2


def test_a_full_group_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": meminfo(GIB),
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": GIB,
        "sys/fs/cgroup/memory.current": 2 * GIB,
    }
    assert free_host_memory(write(tmp_path, files)) == 0


def test_without_linux_half_of_what_is_installed(tmp_path: Path) -> None:
    assert free_host_memory(tmp_path) > 0


def test_this_machine() -> None:
    assert free_memory("cpu") > 1 << 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu() -> None:
    assert 0 < free_memory("cuda") <= torch.cuda.get_device_properties(0).total_memory
