"""Files that are placed whole, and never through a link."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.atomic_file import is_link, replacing, write_bytes, write_text

Place = Callable[[Path, Path], None]


@pytest.mark.parametrize(
    ("link", "name"), [(os.link, "out.csv"), (os.link, ".out.csv.unfinished"), (os.symlink, ".out.csv.unfinished")]
)
def test_nothing_is_written_through_a_link(link: Place, name: str, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out.csv"
    victim.write_bytes(b"of somebody else")
    link(victim, tmp_path / name)
    write_text(out, "ours")
    assert victim.read_bytes() == b"of somebody else"
    assert out.read_text() == "ours" and not is_link(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "victim"]


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_refused(there: bool, tmp_path: Path) -> None:
    """/dev/stdout is one: to replace it would take it from every program of the machine."""
    if there:
        (tmp_path / "elsewhere").touch()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link or not a regular file"):
        write_bytes(tmp_path / "out", b"ours")
    assert (tmp_path / "elsewhere").exists() == there and (tmp_path / "out").is_symlink()
    assert not there or (tmp_path / "elsewhere").read_bytes() == b""


def test_a_device_or_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            write_bytes(path, b"ours")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "out") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "out").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_new_file_has_the_mode_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "out", "ours")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_what_counts_as_a_link(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert not is_link(tmp_path / "plain") and not is_link(tmp_path / "nothing")
    os.symlink(tmp_path / "plain", tmp_path / "soft")
    os.symlink(tmp_path / "nothing", tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe")
    assert all(is_link(tmp_path / name) for name in ("soft", "dangling", "pipe"))
    os.link(tmp_path / "plain", tmp_path / "hard")
    assert is_link(tmp_path / "hard") and is_link(tmp_path / "plain")


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "out.csv") as file, open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), file.fileno())
            file.write(b"ours")
            file.flush()

    with pytest.raises(OSError, match="No space left on device.*out.csv"):
        write()
    assert not list(tmp_path.iterdir())
