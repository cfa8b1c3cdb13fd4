"""The bench runs in an environment of its own extra: it imports nothing that only the service or training installs."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

ABSENT = set(sys.argv[1:])
sys.meta_path.insert(0, Absent())
import bench.cli, bench.comparison.conduct, bench.reporting.plots, bench.comparison.prepare, bench.reporting.report
"""


def test_it_imports_what_its_extra_installs_and_nothing_else() -> None:
    installed = _with_requirements({*_named("dependencies"), *_named("bench")})
    absent = [
        module
        for module, distributions in packages_distributions().items()
        if not {_plain(each) for each in distributions} & {*installed, "marrowlens", "setuptools", "pip"}
    ]
    assert "jinja2" in absent and "torch" in absent and "matplotlib" not in absent
    subprocess.run([sys.executable, "-c", PROGRAM, *absent], check=True)


def _named(group: str) -> list[str]:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if group == "dependencies" else project["optional-dependencies"][group]
    return [_plain(re.split(r"[\s;\[<>=!~]", line)[0]) for line in lines]


def _with_requirements(names: set[str]) -> set[str]:
    found: set[str] = set()
    while names := names - found:
        found |= names
        lines = [line for name in names for line in (_requires(name) or []) if "extra ==" not in line]
        names = {_plain(re.split(r"[\s;\[(<>=!~]", line)[0]) for line in lines}
    return found


def _requires(name: str) -> list[str] | None:
    try:
        return requires(name)
    except ModuleNotFoundError:  # required on another system
        return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
