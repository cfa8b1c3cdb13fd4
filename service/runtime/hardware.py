"""What this process runs on: processor, CPU budget, memory and GPUs, from /proc and cgroups v1 and v2.

A fact that cannot be read, as on other systems than Linux, is None.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.runtime.cuda import Gpu, gpus

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
#: cgroup v1 shows the largest page-aligned 63-bit number where there is no limit.
_NO_LIMIT = 1 << 62
#: Instructions that multiply bf16 numbers, by their names in /proc/cpuinfo: AVX512-BF16 and AMX.
BF16_FLAGS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine at one moment. Memory is in bytes."""

    processor: str | None
    cpus: int  # whole CPUs available to this process
    memory_limit: int | None  # of the cgroup; None: no limit
    memory_available: int | None
    resident: int | None  # of this process
    gpus: tuple[Gpu, ...]


def inspect_machine() -> Machine:
    """The machine now."""
    return Machine(
        processor=_field(PROC / "cpuinfo", "model name"),
        cpus=cpu_budget(),
        memory_limit=memory_limit(),
        memory_available=_kilobytes(_field(PROC / "meminfo", "MemAvailable")),
        resident=resident_memory(),
        gpus=tuple(gpus()),
    )


def cpu_budget(*, own_cgroup: Path = OWN_CGROUP, cgroups: Path = CGROUPS) -> int:
    """Whole CPUs for this process: the least of CPU affinity and cgroup quotas, rounded down, at least 1.

    Rounded down, because one thread more than the quota makes the kernel stop all threads for the rest of each period.
    """
    quotas = (_quota(folder) for folder in _cgroup_folders("cpu", own_cgroup, cgroups))
    return max(1, int(min(_allowed_cpus(), *(quota for quota in quotas if quota is not None), float("inf"))))


def memory_limit(*, own_cgroup: Path = OWN_CGROUP, cgroups: Path = CGROUPS) -> int | None:
    """The least memory limit in bytes of this process's cgroup and those around it; None: no limit."""
    limits = []
    for folder in _cgroup_folders("memory", own_cgroup, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):  # v2, v1
            text = _text(folder / name).strip()
            if text.isdigit() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=None)


def missing_bf16(cpuinfo: Path = PROC / "cpuinfo") -> str | None:
    """Why this processor does not compute in bf16, as a clause; None if it does."""
    flags = (_field(cpuinfo, "flags") or "").split()
    if any(flag in flags for flag in BF16_FLAGS):
        return None
    processor = _field(cpuinfo, "model name") or "the processor"
    return f"{processor} has neither AVX512-BF16 nor AMX ({' or '.join(BF16_FLAGS)} in the flags of {cpuinfo})"


def resident_memory(status: Path = PROC / "self/status") -> int | None:
    """Resident memory of this process in bytes."""
    return _kilobytes(_field(status, "VmRSS"))


def _allowed_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_folders(controller: str, own_cgroup: Path, cgroups: Path) -> Iterator[Path]:
    """Folders that can hold a limit on this process: its own cgroup and its parents up to the mount.

    In a container the mount often shows the container's own cgroup as its root, while the path is the host's. Then
    the folders of the path are missing, and the limit is in the mount itself.
    """
    for line in _text(own_cgroup).splitlines():
        _, controllers, path = line.split(":", 2)  # cgroups(7): hierarchy-ID:controller-list:cgroup-path
        mounts = [cgroups, cgroups / "unified"] if not controllers else [cgroups / controllers, cgroups / controller]
        if not controllers or controller in controllers.split(","):
            for mount in mounts:
                own = mount / path.lstrip("/")
                yield from (own, *(folder for folder in own.parents if folder.is_relative_to(mount)))


def _quota(folder: Path) -> float | None:
    """The quota of one cgroup in CPUs; None: no quota."""
    limit = _text(folder / "cpu.max").split()  # v2, "max 100000" or "150000 100000": microseconds in each period
    if not limit:
        limit = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]  # v1, -1 is no quota
    try:
        quota_us, period_us = (int(value) for value in limit)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _field(path: Path, name: str) -> str | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _kilobytes(text: str | None) -> int | None:
    return int(text.split()[0]) * 1024 if text else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
