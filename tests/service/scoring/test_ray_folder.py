"""The temporary folder of a local Ray cluster: one per run, with a short path, removed afterwards."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from checkout import ROOT

from service.scoring.ray.options import ray_folder
from service.scoring.tables import ScoringError


@pytest.fixture
def short() -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder with a short path; those of pytest are too long."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as folder:
        yield folder


def chosen(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)  # asked for anew


def test_it_is_made_with_ray_s_own_below_it_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, short: str) -> None:
    chosen(monkeypatch, TMPDIR=short)
    with ray_folder() as folder, ray_folder() as another:
        assert folder.parent == Path(short) and folder != another
        assert (folder / "ray").is_dir()  # Ray writes its address there, and does not make it
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "ray" / "left").write_text("behind")
    assert list(Path(short).iterdir()) == []


def test_a_temporary_folder_whose_path_is_too_long_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen(monkeypatch, TMPDIR=str(tmp_path))
    with ray_folder() as folder:
        assert folder.parent != tmp_path
        assert len(str(folder)) + len("/ray/session_2026-11-29_03-21-00_123456_1234567/sockets/plasma_store.1") < 108


def test_what_ray_s_own_variable_names_is_used_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, short: str
) -> None:
    chosen(monkeypatch, RAY_TMPDIR=short)
    with ray_folder() as folder:
        assert folder.parent == Path(short)
    for unusable in (str(tmp_path), f"{short}/none"):
        chosen(monkeypatch, RAY_TMPDIR=unusable)
        with pytest.raises(ScoringError, match="set RAY_TMPDIR"), ray_folder():
            raise AssertionError("made")


PROGRAM = """
import os
from pathlib import Path
from service.scoring.ray.options import prepare_environment
prepare_environment(None)
from service.scoring.ray.actors import ray_cluster
from service.scoring.ray.options import ClusterOptions
import ray
with ray_cluster(ClusterOptions(cpus=1)):
    assert os.environ["RAY_TMPDIR"] in ray._private.worker._global_node.get_session_dir_path()
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
assert "RAY_TMPDIR" not in os.environ
"""


@pytest.mark.parametrize("umask", ["022", pytest.param("077", marks=pytest.mark.slow)])
def test_a_cluster_starts_where_there_was_none_and_leaves_nothing(short: str, umask: str) -> None:
    """No writable home, an empty temporary folder, no other environment variables."""
    command = ["sh", "-c", f'umask {umask}; exec "$0" -c "$1"', sys.executable, PROGRAM]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": short}
    ended = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )
    assert (ended.returncode, ended.stdout.split()[-1:]) == (0, ["42"]), ended.stderr
    assert [path.name for path in Path(short).iterdir()] == []
