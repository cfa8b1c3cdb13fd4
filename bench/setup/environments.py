"""Create one environment for each server at pinned versions, once, and report the installed versions."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.setup.machine import ROOT

PIP_OPTIONS = ("--disable-pip-version-check", "--quiet", "--no-compile")
_VERSIONS = """
import importlib.metadata as m, json, platform, sys
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class CannotInstall(Exception):
    """Installing an environment failed; holds its name and pip's last lines."""

    def __init__(self, name: str, said: str) -> None:
        last = " / ".join(line for line in said.strip().splitlines()[-3:])
        super().__init__(f"the environment of {name} cannot be made: {last}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Environments:
    """Location of the environments; with `here`, everything runs in the current Python and nothing is created."""

    folder: Path
    here: bool = False

    def python(self, name: str, requirements: Sequence[str], python: str, say: Callable[[str], None]) -> Path:
        """The Python of a server's environment; created if missing.

        Raises:
            CannotInstall: and what pip said.
        """
        if self.here:
            return Path(sys.executable)
        asked = json.dumps([python, *requirements, self._project(requirements)])
        made = self.folder / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:10]}"
        if not (made / ".installed").exists():
            say(f"installing {name}: {' '.join(requirements)}")
            shutil.rmtree(made, ignore_errors=True)
            # With this environment's pip: Debian's own Python has venv, but none to put into it without python3-venv.
            _run(name, python, "-m", "venv", "--without-pip", str(made))
            pip = [sys.executable, "-m", "pip", "--python", str(made / "bin/python"), "install", *PIP_OPTIONS]
            _run(name, *pip, *requirements)
            (made / ".installed").write_text("\n".join(requirements) + "\n")
        return made / "bin/python"

    def _project(self, requirements: Sequence[str]) -> str:
        """Requirements of this checkout, if it is part of an environment."""
        return (ROOT / "pyproject.toml").read_text() if "--editable" in requirements else ""


def versions(python: Path, distributions: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of the installed distributions."""
    run = subprocess.run(
        [str(python), "-c", _VERSIONS, *distributions], capture_output=True, text=True, check=True, env=environment()
    )
    found: dict[str, str] = json.loads(run.stdout)
    return found


def environment() -> dict[str, str]:
    """Variables for a server: this process's, without those that change its behaviour, plus the checkout's path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MARROWLENS_", "BENCH_"))}
    return kept | {"PYTHONPATH": str(ROOT)}


def _run(name: str, *command: str) -> None:
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotInstall(name, str(error)) from error
    if run.returncode:
        raise CannotInstall(name, run.stderr or run.stdout)
