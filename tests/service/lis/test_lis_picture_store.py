"""The picture store: retention, and several processes that delete in one folder."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from service.errors import StorageUnavailable
from service.lis.picture_store import PictureStore

OLD_S = 1_000_000_000


def picture(kept: PictureStore, folder: Path, number: int, *, old: bool = True) -> Path:
    name = f"{number:064x}"
    kept.settle([kept.stage(name, b"a picture")], everything)
    path = folder / name[:2] / f"{name}.picture"
    if old:
        os.utime(path, (OLD_S, OLD_S))
    return path


def none(_: Sequence[str]) -> set[str]:
    """No picture is in use."""
    return set()


def everything(asked: Sequence[str]) -> set[str]:
    """Every picture is in use."""
    return set(asked)


def test_old_pictures_go_and_new_ones_stay(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    old, new = [picture(kept, tmp_path, n) for n in range(5)], picture(kept, tmp_path, 9, old=False)
    other = tmp_path / "readme.txt"
    other.write_text("not a picture")
    os.utime(other, (OLD_S, OLD_S))
    assert kept.delete_expired(none, none) == 5
    assert not any(path.exists() for path in old)
    assert new.exists() and other.exists()


def test_a_picture_in_use_stays_however_old(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    old = [picture(kept, tmp_path, n) for n in range(5)]
    assert kept.delete_expired(lambda asked: set(asked) & {f"{3:064x}"}, none) == 4
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
    assert kept.delete_expired(none, none) == 5
    assert not list(tmp_path.glob("??/*"))


def test_a_folder_that_vanishes_or_is_none_does_not_end_the_sweep(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    picture(kept, tmp_path, 1)
    (tmp_path / "aa").write_bytes(b"a file with the name of a folder")
    (tmp_path / "ab").symlink_to(tmp_path / "nowhere")
    assert kept.delete_expired(none, none) == 1
    assert PictureStore(tmp_path / "gone", 30) and (tmp_path / "gone").rmdir() is None
    gone = PictureStore(tmp_path / "gone", 30)
    (tmp_path / "gone").rmdir()
    assert gone.delete_expired(none, none) == 0


def test_one_that_cannot_be_deleted_is_told_and_the_others_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = PictureStore(tmp_path, 30)
    for number in range(3):
        picture(kept, tmp_path, number)
    (tmp_path / "00" / "a folder").mkdir()
    stays = tmp_path / "00" / "a folder"
    os.utime(stays, (OLD_S, OLD_S))
    assert kept.delete_expired(none, none) == 3
    assert stays.is_dir() and not caplog.records


def test_two_sweepers_at_once_delete_each_picture_once(tmp_path: Path) -> None:
    kept, counts = PictureStore(tmp_path, 30), list[int]()
    for number in range(400):
        picture(kept, tmp_path, number)
    sweepers = [threading.Thread(target=lambda: counts.append(kept.delete_expired(none, none))) for _ in range(4)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()
    assert sum(counts) == 400 and len(counts) == 4


def test_a_picture_that_is_sent_again_while_it_is_swept_is_kept(tmp_path: Path) -> None:
    kept = PictureStore(tmp_path, 30)
    path = picture(kept, tmp_path, 1)

    def sent_again(_: Sequence[str]) -> set[str]:
        picture(kept, tmp_path, 1, old=False)
        return set()

    assert kept.delete_expired(sent_again, everything) == 0
    assert path.exists() and kept.get(path.stem) == b"a picture"


def test_a_picture_can_be_read_while_its_cells_are_committed(tmp_path: Path) -> None:
    kept, name = PictureStore(tmp_path, 30), f"{1:064x}"
    staged = kept.stage(name, b"a picture")
    assert (kept.get(name), kept.get(name, "overlay"), kept.get(f"{2:064x}")) == (b"a picture", None, None)
    kept.settle([staged], none)
    assert kept.get(name) is None


def test_what_a_stopped_process_has_staged_is_settled_after_a_day(tmp_path: Path) -> None:
    kept, names = PictureStore(tmp_path, 30), [f"{number:064x}" for number in range(3)]
    staged = [kept.stage(name, b"a picture") for name in names]
    half = staged[0].with_name(".half written")
    half.write_bytes(b"a pic")
    for path in (*staged[:2], half):
        os.utime(path, (OLD_S, OLD_S))
    kept.settle_left(lambda asked: set(asked) & {names[0]})
    assert [path.name for path in tmp_path.glob("??/*")] == [f"{names[0]}.picture"]
    assert list((tmp_path / "staging").iterdir()) == [staged[2]]


def test_files_stay_staged_while_the_database_does_not_answer(tmp_path: Path) -> None:
    kept, name = PictureStore(tmp_path, 30), f"{1:064x}"
    picture(kept, tmp_path, 1)

    def silent(_: Sequence[str]) -> set[str]:
        raise StorageUnavailable

    with pytest.raises(StorageUnavailable):
        kept.delete([name], silent)
    assert kept.get(name) == b"a picture"
    kept.settle_left(none)
    assert kept.get(name) is None
