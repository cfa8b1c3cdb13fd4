"""What this process runs on: processor, CPU budget, memory, GPUs.

Knows /proc and cgroups. Where a fact cannot be had, as on other systems than Linux, it is None.
"""

from dataclasses import dataclass
from pathlib import Path

from service.runtime.cpu_quota import CGROUPS, OWN_CGROUP, cgroup_folders, cpu_budget
from service.runtime.cuda import Gpu, gpus

PROC = Path("/proc")
#: What cgroup v1 shows where there is no limit: the largest page-aligned 63-bit number.
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of the moment. Memory is in bytes."""

    processor: str | None
    cpus: int  # what this process may use, whole
    memory_limit: int | None  # of the cgroup; None: none
    memory_available: int | None
    resident: int | None  # of this process
    gpus: tuple[Gpu, ...]


def look_around() -> Machine:
    """The machine, now."""
    return Machine(
        processor=_field(PROC / "cpuinfo", "model name"),
        cpus=cpu_budget(),
        memory_limit=memory_limit(),
        memory_available=_kilobytes(_field(PROC / "meminfo", "MemAvailable")),
        resident=resident(),
        gpus=tuple(gpus()),
    )


def resident(status: Path = PROC / "self/status") -> int | None:
    """Bytes of this process that are in memory."""
    return _kilobytes(_field(status, "VmRSS"))


def memory_limit(*, own_cgroup: Path = OWN_CGROUP, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that the cgroups around this process allow it: the least of them, or None where none sets a limit."""
    limits = []
    for folder in cgroup_folders("memory", own_cgroup, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):  # v2, v1
            text = _text(folder / name).strip()
            if text.isdigit() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=None)


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
