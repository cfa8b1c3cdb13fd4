"""Result of a check, and the page docs/stress.md with the last result of each."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from model.plural import plural

HEAD = """# Stress tests

Written by `make stress` (`python -m stress.cli`): the last run of each check, against `marrowlens serve` over HTTP \
where it does not say otherwise. \
`make test` runs a short form of each. A check that finds a fault lists it here and ends with exit code 1. The bundled \
model is the network that is served by default; the tiny one is the tests' model, which takes almost no time, so that \
everything else is under load.
"""


class Shown(Protocol):
    """Progress display of a check."""

    def total(self, steps: int) -> None:
        """Set the number of steps."""

    def step(self, count: int = 1) -> None:
        """Advance by a number of steps."""


@dataclass(slots=True)
class Steps:
    """`Shown` that only counts."""

    planned: int = 0
    done: int = 0

    def total(self, steps: int) -> None:
        self.planned = steps

    def step(self, count: int = 1) -> None:
        self.done += count


@dataclass(slots=True)
class Table:
    """A header and rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


@dataclass(slots=True)
class Result:
    """Result of one check: text, tables, faults."""

    name: str
    title: str
    said: str
    tables: list[Table] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    model: str = "bundled"
    workers: int = 1
    network: str = ""  # what it was about, where that was neither of the two

    @property
    def key(self) -> str:
        """Key of the result on the page."""
        return f"{self.name}-{self.model}{'' if self.workers == 1 else f'-{self.workers}-workers'}"

    def markdown(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%d")
        several = self.workers > 1
        command = (
            f"python -m stress.cli {self.name} --model {self.model}{f' --workers {self.workers}' if several else ''}"
        )
        served = f"the {self.network or self.model} model{f', {self.workers} workers' if several else ''}"
        verdict = "passed" if not self.faults else f"**{plural(len(self.faults), 'fault')}**"
        return "\n\n".join(
            [
                f"## {self.title}: {served}",
                self.said,
                *(table.markdown() for table in self.tables),
                *(["\n".join(f"- {fault}" for fault in self.faults[:20])] if self.faults else []),
                f"`{command}`: {verdict}, {now}, {self.seconds:.0f} s, {machine()}",
            ]
        )


def machine() -> str:
    """The machine of the measurement."""
    load = os.getloadavg()[0]
    names = ", ".join(f"{name} {version(name)}" for name in ("marrowlens", "onnxruntime", "uvicorn", "pillow"))
    cores = len(os.sched_getaffinity(0))
    return (
        f"{_processor()}, {cores} cores, load {load:.0f} at the end including other programs; "
        f"{platform.system()}, Python {platform.python_version()}, {names}."
    )


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def write(page: Path, results: Sequence[Result]) -> None:
    """Write the results into the page and keep those of other checks."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    kept = dict(re.findall(r"<!-- ([\w-]+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL))
    kept |= {result.key: result.markdown() for result in results}
    sections = [f"<!-- {name} -->\n{kept[name]}\n<!-- end -->" for name in sorted(kept)]
    page.write_text("\n\n".join([HEAD.strip(), *sections]) + "\n", encoding="utf-8")
