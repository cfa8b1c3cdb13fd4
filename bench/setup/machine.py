"""The machine of a measurement: processor, cores and their use, commit."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Cores:
    """CPU numbers of the servers and of the load generator; the same where the machine has only one."""

    server: tuple[int, ...]
    client: tuple[int, ...]

    @property
    def separate(self) -> bool:
        return not set(self.server) & set(self.client)


def cores(server: Sequence[int] = (), client: Sequence[int] = ()) -> Cores:
    """The last core for the generator, all others for the servers, unless named otherwise.

    Raises:
        ValueError: a core that this process may not use.
    """
    allowed = sorted(os.sched_getaffinity(0))
    missing = {*server, *client} - set(allowed)
    if missing:
        raise ValueError(f"this process may use the cores {allowed}, not {sorted(missing)}")
    chosen = tuple(client) or (tuple(allowed[-1:]))
    rest = tuple(core for core in allowed if core not in chosen)
    return Cores(tuple(server) or rest or chosen, chosen)


def listed(numbers: Sequence[int]) -> str:
    """CPU numbers as a list for taskset -c."""
    return ",".join(str(number) for number in numbers)


def processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def commit() -> str:
    """The checkout's commit, marked when files differ from it; "unknown" outside of a checkout."""
    try:
        short = _git("rev-parse", "--short=12", "HEAD")
        return f"{short} and changes" if _git("status", "--porcelain", "--untracked-files=no") else short
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()
