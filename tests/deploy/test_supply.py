"""What the images are made of: pinned by hashes, in step with pyproject.toml, listed, under licences that are known."""

import json
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKER = ROOT / "docker"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: What each image holds, by the extras of pyproject.toml.
IMAGES = {
    "cpu": ("service", "postgres", "otel", "cpu"),
    "gpu": ("service", "postgres", "otel", "gpu"),
    "openvino": ("service", "postgres", "otel", "openvino"),
    "training": ("training",),
}
#: `make test` makes it. Apart from the tests: it brings a grammar that each import of jsonschema reads for 2.5 s then.
SUPPLY = ROOT / ".venv-supply"
#: By CycloneDX's own schema.
JUDGE = """
import sys
from pathlib import Path
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(sys.argv[1]).read_text()))
"""
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")

Pin = tuple[Requirement, list[str]]


def pins(image: str) -> list[Pin]:
    """Every pinned distribution and its hashes."""
    text = (DOCKER / f"constraints-{image}.txt").read_text()
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    parts = [line.split(" --hash=") for line in lines]
    return [(Requirement(said), [each.strip() for each in hashes]) for said, *hashes in parts]


def wanted(image: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for."""
    project = PYPROJECT["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in IMAGES[image])]
    yield from (Requirement(text) for each in lists for text in each)


@pytest.mark.parametrize("image", [*IMAGES, "build"])
def test_every_pin_is_one_version_with_hashes_and_names_no_index(image: str) -> None:
    text = (DOCKER / f"constraints-{image}.txt").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    found = pins(image)
    assert len(found) > 5
    for requirement, hashes in found:
        assert [each.operator for each in requirement.specifier] == ["=="], requirement
        assert hashes and all(SHA256.fullmatch(each) for each in hashes), requirement


@pytest.mark.parametrize("image", IMAGES)
def test_constraints_are_those_of_pyproject(image: str) -> None:
    """Otherwise: make constraints."""
    found: dict[str, list[str]] = {}
    for requirement, _ in pins(image):
        (pinned,) = requirement.specifier
        found.setdefault(canonicalize_name(requirement.name), []).append(pinned.version)
    for requirement in wanted(image):
        versions = found.get(canonicalize_name(requirement.name))
        assert versions, f"make constraints: {requirement} is not in constraints-{image}.txt"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_images_build_the_wheel_with_what_pyproject_names() -> None:
    asked = [line for line in (DOCKER / "build.in").read_text().splitlines() if not line.startswith("#")]
    assert asked == PYPROJECT["build-system"]["requires"]


CONSTRAINTS = f"""# written by
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:{"0" * 64} \\
    --hash=sha256:{"1" * 64}
    # via somebody
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:{"2" * 64}
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{"3" * 64}
resizer==1.0 ; platform_machine == 'AMD64' or platform_machine == 'x86_64' \\
    --hash=sha256:{"4" * 64}
"""


@pytest.mark.parametrize(
    ("python", "machine", "names"),
    [
        ("3.11", "x86_64", ["numpy==2.4.6", "resizer==1.0"]),
        ("3.13", "x86_64", ["numpy==2.5.5", "resizer==1.0"]),
        ("3.13", "aarch64", ["numpy==2.5.5"]),
    ],
)
def test_wheels_are_fetched_for_the_image_not_for_who_fetches(python: str, machine: str, names: list[str]) -> None:
    lines = runpy.run_path(str(DOCKER / "for_target.py"))["matching_requirements"](CONSTRAINTS, python, machine)
    assert [line.split()[0] for line in lines] == names
    assert all(SHA256.search(line) for line in lines)
    assert "0" * 64 not in "".join(lines) or "1" * 64 in "".join(lines)


def test_trimming_takes_what_no_request_needs(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.13/site-packages"
    kept = ["numpy/core.py", "numpy/testing/private.py", "tests_of_blood/a.py", "onnxruntime/capi/state.so"]
    gone = ["numpy/tests/test_a.py", "numpy/core.pyi", "onnxruntime/tools/a.py", "onnxruntime/capi/libonnxruntime.so.1"]
    for name in (*kept, *gone):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(b"12345")
    trim = runpy.run_path(str(DOCKER / "trim.py"))["trim"]
    assert trim(tmp_path) == 5 * len(gone)
    left = sorted(str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file())
    assert left == sorted(kept)


def test_trimming_leaves_the_library_that_other_providers_may_load(tmp_path: Path) -> None:
    capi = tmp_path / "lib/python3.13/site-packages/onnxruntime/capi"
    capi.mkdir(parents=True)
    for name in ("libonnxruntime.so.1", "libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so"):
        (capi / name).touch()
    assert runpy.run_path(str(DOCKER / "trim.py"))["trim"](tmp_path) == 0
    assert (capi / "libonnxruntime.so.1").exists()


def _ran(*command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("script", ["install.sh dependencies", "wheels.sh"])
def test_an_image_that_there_is_not_is_refused(script: str, tmp_path: Path) -> None:
    name, *words = script.split()
    ended = _ran(str(DOCKER / name), *words, "tpu", ENVIRONMENT=str(tmp_path / "a"), TOOLS=str(tmp_path / "b"))
    assert ended.returncode == 1 and "cpu" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_is_not_promised_without_a_network(tmp_path: Path) -> None:
    ended = _ran(str(DOCKER / "wheels.sh"), "tensorrt", str(tmp_path))
    assert ended.returncode == 1 and "needs a network" in ended.stderr


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the CPU image's distributions, by what they say of themselves here; no code is in it."""
    folder = tmp_path_factory.mktemp("supply") / "environment"
    _ran(sys.executable, "-m", "venv", "--without-pip", str(folder)).check_returncode()
    (packages,) = folder.glob("lib/python3.*/site-packages")
    names = {canonicalize_name(requirement.name) for requirement, _ in pins("cpu")}
    for each in distributions(path=[sysconfig.get_paths()["purelib"]]):
        if canonicalize_name(each.metadata["Name"]) in names:
            copy = packages / f"{each.metadata['Name']}-{each.version}.dist-info"
            copy.mkdir()
            (copy / "METADATA").write_text(each.read_text("METADATA") or "", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sbom(described: Path) -> "tuple[dict[str, Any], subprocess.CompletedProcess[str], Path]":
    """What docker/sbom.sh wrote, what it said, and where."""
    out = described.parent / "sbom"
    tools = SUPPLY / "bin"
    own = {"CYCLONEDX": str(tools / "cyclonedx-py"), "PYTHON": str(tools / "python")}
    ended = _ran("docker/sbom.sh", "cpu", str(described), OUT=str(out), **own)
    return json.loads((out / "cpu.cdx.json").read_text()), ended, out


@pytest.mark.slow
def test_sbom_is_cyclonedx_and_names_every_distribution(sbom: Any, described: Path) -> None:
    document, _, out = sbom
    judged = _ran(str(SUPPLY / "bin/python"), "-c", JUDGE, str(out / "cpu.cdx.json"))
    assert judged.returncode == 0, judged.stderr
    assert document["metadata"]["component"]["name"] == "marrowlens"
    (packages,) = described.glob("lib/python3.*/site-packages")
    installed = {
        (canonicalize_name(each.metadata["Name"]), each.version) for each in distributions(path=[str(packages)])
    }
    assert len(installed) > 40
    assert {(canonicalize_name(each["name"]), each["version"]) for each in document["components"]} == installed


def test_every_licence_in_the_image_is_one_that_somebody_has_let_in(sbom: Any) -> None:
    document, ended, out = sbom
    assert ended.returncode == 0, ended.stderr
    rows = (out / "cpu-licences.csv").read_text().splitlines()[1:]
    assert len(rows) == len(document["components"])
    assert [row for row in rows if row.endswith(",")] == []


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ([{"expression": "MIT AND AGPL-3.0-only"}], "is under AGPL-3.0-only"),
        (
            [{"license": {"name": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"}}],
            "is under License ::",
        ),
        ([{"license": {"id": "SSPL-1.0"}}, {"license": {"id": "MIT"}}], "is under SSPL-1.0"),
        ([], "declares no licence"),
    ],
)
def test_another_licence_fails(licence: list[Any], said: str, tmp_path: Path) -> None:
    component = {"name": "guest", "version": "1", "licenses": licence}
    (tmp_path / "a.json").write_text(json.dumps({"components": [component]}))
    ended = _ran(sys.executable, "docker/licences.py", str(tmp_path / "a.json"), str(tmp_path / "a.csv"))
    assert ended.returncode == 1
    assert f"guest 1 {said}" in ended.stderr
