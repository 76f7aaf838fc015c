"""How many cores this process may use, and which processors belong to which NUMA node."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_NODES = Path("/sys/devices/system/node")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Processors of this process's affinity, or fewer where a cgroup's quota allows fewer.

    Containers limit by quota: ``docker --cpus=2`` on 64 processors leaves an affinity of 64.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for quota in (_quota_v2(cgroup), _quota_v1(cgroup)) if quota]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def parse_cpus(text: str) -> tuple[int, ...]:
    """The processors of a kernel list such as "0-3,8": (0, 1, 2, 3, 8)."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def numa_cpus(nodes: Path = _NODES) -> dict[int, tuple[int, ...]]:
    """Processors of each NUMA node that this process may use; empty on one node."""
    allowed = os.sched_getaffinity(0)
    found = {}
    for folder in nodes.glob("node[0-9]*"):
        with suppress(OSError, ValueError):
            cpus = parse_cpus((folder / "cpulist").read_text())
            found[int(folder.name.removeprefix("node"))] = tuple(c for c in cpus if c in allowed)
    with_cpus = {node: cpus for node, cpus in sorted(found.items()) if cpus}
    return with_cpus if len(with_cpus) > 1 else {}


def _quota_v2(cgroup: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(cgroup: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    return None
