"""The picture store: retention, and several processes that delete in one folder."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from service.lis.picture_store import PictureStore

OLD_S = 1_000_000_000


def picture(kept: PictureStore, folder: Path, number: int, *, old: bool = True) -> Path:
    name = f"{number:064x}"
    kept.put(name, b"a picture")
    path = folder / name[:2] / f"{name}.picture"
    if old:
        os.utime(path, (OLD_S, OLD_S))
    return path


def none(_: Sequence[str]) -> set[str]:
    """No picture is in use."""
    return set()


def test_old_pictures_go_and_new_ones_stay(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    old, new = [picture(kept, tmp_path, n) for n in range(5)], picture(kept, tmp_path, 9, old=False)
    other = tmp_path / "readme.txt"
    other.write_text("not a picture")
    os.utime(other, (OLD_S, OLD_S))
    assert kept.delete_expired(none) == 5
    assert not any(path.exists() for path in old)
    assert new.exists() and other.exists()


def test_a_picture_in_use_stays_however_old(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    old = [picture(kept, tmp_path, n) for n in range(5)]
    assert kept.delete_expired(lambda asked: set(asked) & {f"{3:064x}"}) == 4
    assert [path.exists() for path in old] == [False, False, False, True, False]


class Vanishing(PictureStore):
    """A folder in which another sweeper is always one picture ahead."""

    def _folders(self) -> Iterator[list[Path]]:
        for files in super()._folders():
            for path in files[::2]:
                path.unlink()
            yield files


def test_a_file_that_vanishes_does_not_end_the_sweep(tmp_path: Path) -> None:
    kept = Vanishing(tmp_path, 30)
    for number in range(10):
        picture(kept, tmp_path, number)
    assert kept.delete_expired(none) == 5
    assert not list(tmp_path.glob("??/*"))


def test_a_folder_that_vanishes_or_is_none_does_not_end_the_sweep(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    picture(kept, tmp_path, 1)
    (tmp_path / "aa").write_bytes(b"a file with the name of a folder")
    (tmp_path / "ab").symlink_to(tmp_path / "nowhere")
    assert kept.delete_expired(none) == 1
    assert PictureStore(tmp_path / "gone", 30) and (tmp_path / "gone").rmdir() is None
    gone = PictureStore(tmp_path / "gone", 30)
    (tmp_path / "gone").rmdir()
    assert gone.delete_expired(none) == 0


def test_one_that_cannot_be_deleted_is_told_and_the_others_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = PictureStore(tmp_path, 30)
    for number in range(3):
        picture(kept, tmp_path, number)
    (tmp_path / "00" / "a folder").mkdir()
    stays = tmp_path / "00" / "a folder"
    os.utime(stays, (OLD_S, OLD_S))
    assert kept.delete_expired(none) == 3
    assert stays.is_dir() and not caplog.records


def test_two_sweepers_at_once_delete_each_picture_once(tmp_path: Path) -> None:
    kept, counts = PictureStore(tmp_path, 30), list[int]()
    for number in range(400):
        picture(kept, tmp_path, number)
    sweepers = [threading.Thread(target=lambda: counts.append(kept.delete_expired(none))) for _ in range(4)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()
    assert sum(counts) == 400 and len(counts) == 4


def test_a_picture_that_is_swept_while_it_comes_again_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, utime = PictureStore(tmp_path, 30), os.utime
    picture(kept, tmp_path, 1)

    def swept(path: Path) -> None:
        path.unlink()
        utime(path)

    monkeypatch.setattr("service.lis.picture_store.os.utime", swept)
    kept.put(f"{1:064x}", b"again")
    assert kept.get(f"{1:064x}") == b"again"
