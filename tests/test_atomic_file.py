"""Files that are placed whole, and never through a link."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.atomic_file import is_link, replacing, write_bytes, write_text

Place = Callable[[Path, Path], None]
LINKS = pytest.mark.parametrize("link", [os.symlink, os.link])


@LINKS
@pytest.mark.parametrize("name", ["out.csv", ".out.csv.unfinished"])
def test_nothing_is_written_through_a_link(link: Place, name: str, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out.csv"
    victim.write_bytes(b"of somebody else")
    link(victim, tmp_path / name)
    write_text(out, "ours")
    assert victim.read_bytes() == b"of somebody else"
    assert out.read_text() == "ours" and not is_link(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "victim"]


def test_a_link_to_nothing_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    write_bytes(tmp_path / "out", b"ours")
    assert not (tmp_path / "elsewhere").exists() and (tmp_path / "out").read_bytes() == b"ours"


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
