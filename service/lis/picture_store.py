"""The picture store: files named after their SHA-256 in one folder, deleted after a number of days if not in use.

A picture of two specimens is one file. Storing it again restarts its retention.

Uploads and deletions of one picture can run at the same time, in several processes. An upload commits the cells first,
and then moves their pictures into place. A deletion moves pictures out of place first, and then looks for cells that
need them. Whatever is moved into place is looked up once more. So, in any order, a picture is in place at the end if
and only if a cell needs it (decision 0042). Until then a file is in the folder `staging`. No transaction is open while
files are moved.
"""

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from model.image import format_of
from model.regular_file import LARGE_BYTES, read_regular_file
from service.lis.storage.file_rights import FILE_MODE, create_private_folder

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
#: Age in s of a staged file that a stopped process has left. An upload commits its cells before.
_LEFT_S = _DAY_S
#: Files of a picture: the picture itself, and the drawn evidence.
KINDS = ("picture", "overlay")
#: Those of some pictures, by their hashes, that are needed. It asks the database, in a transaction of its own.
NeededOf = Callable[[Sequence[str]], Collection[str]]


def media_type(picture: bytes) -> str:
    """The media type of a picture, by its first bytes."""
    return f"image/{format_of(picture[:16]).lower()}"


class PictureStore:
    """The stored pictures in one folder. All calls block."""

    def __init__(self, folder: Path, days: int) -> None:
        """
        Raises:
            OSError: the folder cannot be created.
        """
        create_private_folder(folder)
        self._folder = folder
        self._staging = folder / "staging"
        self._days = days

    def stage(self, sha256: str, data: bytes, kind: str = "picture") -> Path:
        """Write a picture that no committed cell has yet; returns its staged file, for `settle`.

        Raises:
            OSError: the disk is full or not writable.
        """
        create_private_folder(self._staging)
        with tempfile.NamedTemporaryFile(dir=self._staging, prefix=".", delete=False) as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged = self._staged(f"{sha256}.{kind}")
        os.replace(file.name, staged)
        return staged

    def settle(self, staged: Sequence[Path], needed: NeededOf) -> int:
        """Move staged files into place if their pictures are needed, and delete the others; returns their number.

        Call it after the cells were committed. If `needed` raises, the files stay staged.
        """
        kept = set(needed(sorted({_hash_of(path) for path in staged}))) if staged else set()
        for path in (path for path in staged if _hash_of(path) in kept):
            self._place(path)
        count = sum(self._unlink(path) for path in staged if _hash_of(path) not in kept)
        if kept and (unneeded := kept.difference(needed(sorted(kept)))):  # erased while their files were moved
            self.delete(sorted(unneeded), needed)
        return count

    def settle_left(self, needed: NeededOf) -> None:
        """Settle the files that were staged by a process that has ended."""
        self.settle(self._older(self._files(self._staging), time.time() - _LEFT_S), needed)

    def get(self, sha256: str, kind: str = "picture") -> bytes | None:
        """A picture; None if it was not stored, or has expired."""
        for path in self._candidates(sha256, kind):
            with suppress(FileNotFoundError):
                return read_regular_file(path, LARGE_BYTES)
        return None

    def has(self, sha256: str) -> bool:
        """Whether a picture is stored."""
        return any(path.is_file() for path in self._candidates(sha256, "picture"))

    def delete(self, pictures: Iterable[str], needed: NeededOf) -> None:
        """Delete pictures by their hashes, unless they are needed. Files that cannot be deleted are logged."""
        self.settle(self._take(self._path(sha256, kind) for sha256 in pictures for kind in KINDS), needed)

    def delete_expired(self, in_use: NeededOf, needed: NeededOf) -> int:
        """Delete expired pictures; returns their number. Files that cannot be deleted are logged and skipped.

        Args:
            in_use: those of some pictures that are kept although their days have passed.
            needed: those of some pictures that are kept because they were sent again in the meantime.
        """
        oldest_s = time.time() - self._days * _DAY_S
        count = 0
        for files in self._folders():
            expired = self._older(files, oldest_s)
            kept = in_use(sorted({path.stem for path in expired})) if expired else ()
            taken = self._take(path for path in expired if path.stem not in kept)
            still_expired = self._older(taken, oldest_s)
            count += self.settle(still_expired, in_use)
            self.settle(sorted(set(taken).difference(still_expired)), needed)
        return count

    def _candidates(self, sha256: str, kind: str) -> Iterator[Path]:
        """Where a picture is: in place, staged for a moment, or in place again."""
        yield self._path(sha256, kind)
        yield from self._staging.glob(f"{sha256}.{kind}.*")
        yield self._path(sha256, kind)

    def _take(self, paths: Iterable[Path]) -> list[Path]:
        """Move files out of place; returns their staged files."""
        create_private_folder(self._staging)
        taken: list[Path] = []
        for path in paths:
            with self._log_errors(path):
                staged = self._staged(path.name)
                path.rename(staged)
                taken.append(staged)
        return taken

    def _place(self, staged: Path) -> None:
        """Move a staged file into place. Errors are logged; another process may have settled it."""
        sha256, kind, _ = staged.name.split(".")
        path = self._path(sha256, kind)
        with self._log_errors(staged):
            create_private_folder(path.parent)
            os.replace(staged, path)

    def _unlink(self, path: Path) -> bool:
        with self._log_errors(path):
            path.unlink()
            return True
        return False

    def _older(self, files: Iterable[Path], oldest_s: float) -> list[Path]:
        return [path for path in files if self._is_older(path, oldest_s)]

    def _is_older(self, path: Path, oldest_s: float) -> bool:
        with self._log_errors(path):
            found = path.lstat()
            return S_ISREG(found.st_mode) and found.st_mtime < oldest_s
        return False

    def _folders(self) -> Iterator[list[Path]]:
        """The files of each folder."""
        for folder in (each for each in self._files(self._folder) if len(each.name) == 2):
            yield self._files(folder)

    def _files(self, folder: Path) -> list[Path]:
        with self._log_errors(folder):
            return list(folder.iterdir())
        return []

    @contextmanager
    def _log_errors(self, path: Path) -> Iterator[None]:
        """Log errors of a file and go on. A missing file is none: another process deletes too."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            log.warning("deletion of pictures: %s: %s", path, error.strerror)

    def _path(self, sha256: str, kind: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}.{kind}"

    def _staged(self, name: str) -> Path:
        return self._staging / f"{name}.{secrets.token_hex(8)}"


def _hash_of(staged: Path) -> str:
    return staged.name.partition(".")[0]
