"""No version with a known hole: neither asked for by pyproject.toml nor pinned by the constraints."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FLOORS: list[dict[str, Any]] = tomllib.loads((ROOT / "docker/floors.toml").read_text())["floor"]
CONSTRAINTS = sorted((ROOT / "docker").glob("constraints-*.txt"))
#: What reads requests, tokens and pictures of strangers: each has its floor in pyproject.toml itself.
AT_THE_DOOR = {"python-multipart", "pyjwt", "starlette", "fastapi", "pillow", "cryptography", "orjson"}


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return [Requirement(each) for each in listed]


def least(requirement: Requirement) -> Version:
    """The oldest version that a requirement takes."""
    bounds = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==", "~=")]
    return max(bounds, default=Version("0"))


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor["package"])
def test_pyproject_asks_for_no_version_with_a_known_hole(floor: dict[str, Any]) -> None:
    asked = [each for each in required() if canonicalize_name(each.name) == floor["package"]]
    assert asked or floor["package"] not in AT_THE_DOOR
    for each in asked:
        assert least(each) >= Version(floor["version"]), f"{each}: {', '.join(floor['advisories'])}"


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor["package"])
@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=lambda path: path.stem)
def test_the_constraints_pin_no_version_with_a_known_hole(constraints: Path, floor: dict[str, Any]) -> None:
    text = constraints.read_text()
    pinned = re.findall(rf"^{re.escape(floor['package'])}==(\S+)", text, re.MULTILINE)
    assert all(Version(each) >= Version(floor["version"]) for each in pinned), pinned


def test_every_floor_names_its_advisories_and_its_source() -> None:
    assert {floor["package"] for floor in FLOORS} >= AT_THE_DOOR
    assert len({floor["package"] for floor in FLOORS}) == len(FLOORS)
    for floor in FLOORS:
        assert floor["package"] == canonicalize_name(floor["package"])
        assert floor["advisories"] and floor["source"].startswith("https://")
        assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}", each) for each in floor["advisories"])
