"""How many CPUs this process may really use, which in a container is not how many the machine has.

Knows CPU affinity and the cgroup quota, v1 and v2. Knows nothing of what the threads will do.
"""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_budget(*, own_cgroup: Path = OWN_CGROUP, cgroups: Path = CGROUPS) -> int:
    """Whole CPUs for this process: the least of affinity and cgroup quotas, rounded down, at least one.

    Rounded down because with a thread more than the quota has CPUs the kernel stops all of them for the rest of
    each period.
    """
    quotas = (_quota(folder) for folder in cgroup_folders("cpu", own_cgroup, cgroups))
    return max(1, int(min(_allowed_cpus(), *(quota for quota in quotas if quota is not None), float("inf"))))


def _allowed_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_folders(controller: str, own_cgroup: Path = OWN_CGROUP, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Where a limit on this process may stand: its own cgroup and each one around it, up to the mount.

    In a container the mount often shows the container's own cgroup as its root while the path is the host's: then
    the folders of the path are missing and the mount itself is the one that counts.
    """
    for line in _text(own_cgroup).splitlines():
        _, controllers, path = line.split(":", 2)  # cgroups(7): hierarchy-ID:controller-list:cgroup-path
        mounts = [cgroups, cgroups / "unified"] if not controllers else [cgroups / controllers, cgroups / controller]
        if not controllers or controller in controllers.split(","):
            for mount in mounts:
                own = mount / path.lstrip("/")
                yield from (own, *(folder for folder in own.parents if folder.is_relative_to(mount)))


def _quota(folder: Path) -> float | None:
    """The quota in CPUs that stands in one cgroup's folder, or None where it has none."""
    limit = _text(folder / "cpu.max").split()  # v2, "max 100000" or "150000 100000": microseconds in each period
    if not limit:
        limit = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]  # v1, -1 is no quota
    try:
        quota_us, period_us = (int(value) for value in limit)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
