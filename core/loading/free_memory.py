"""Free memory of a device, for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60  # control groups write "no limit" as a number about this large


def free_memory(device_type: str, index: int = 0) -> int:
    """Bytes that can be allocated now: on a GPU what its driver says, on a CPU what system and control group leave."""
    if device_type == "cpu":
        return free_host_memory()
    import torch

    return int(torch.cuda.mem_get_info(index)[0])


def free_host_memory(root: Path = Path("/")) -> int:
    """The least of what the system has available and what each control group around this process leaves.

    `root` stands for the file system's, for tests.
    """
    return min(_available(root), *(_left(group) for group in _groups(root)), _UNLIMITED)


def _available(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux: half of what is installed is a careful guess
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the memory control groups that this process is in, the outer ones too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup" / ("" if number == "0" else "memory")
            group = base / path.lstrip("/")
            # In a container the path may be the host's, where only the base itself is visible.
            yield from [group, *group.parents[: len(Path(path).parts) - 1]] if group.is_dir() else [base]


def _left(group: Path) -> int:
    """Bytes a control group may still take; what it holds of the page cache can be had back."""
    for limit, usage, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        allowed, used = _number(group / limit), _number(group / usage)
        if allowed is not None and used is not None and allowed < _UNLIMITED:
            return max(0, allowed - max(0, used - _statistic(group / "memory.stat", inactive)))
    return _UNLIMITED


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)
