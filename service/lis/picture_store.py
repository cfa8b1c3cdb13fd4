"""The picture store: files named after their SHA-256 in one folder, deleted after a number of days if not in use.

A picture of two specimens is one file. Storing it again restarts its retention.
"""

import logging
import os
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


#: A browser must not interpret an uploaded file as a page, nor keep it.
PICTURE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


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
        self._days = days

    def put(self, sha256: str, data: bytes, kind: str = "picture") -> None:
        """Store a picture atomically. `kind` is `picture`, or `overlay` for the drawn evidence.

        Raises:
            OSError: the disk is full or not writable.
        """
        path = self._path(sha256, kind)
        with suppress(FileNotFoundError):
            os.utime(path)
            return
        create_private_folder(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)

    def get(self, sha256: str, kind: str = "picture") -> bytes | None:
        """A picture; None if it was not stored, or has expired."""
        with suppress(FileNotFoundError):
            return read_regular_file(self._path(sha256, kind), LARGE_BYTES)
        return None

    def has(self, sha256: str) -> bool:
        """Whether a picture is stored."""
        return self._path(sha256, "picture").is_file()

    def delete(self, pictures: Iterable[str]) -> None:
        """Delete pictures by their hashes. Files that cannot be deleted are logged and skipped."""
        for sha256 in pictures:
            for path in (self._path(sha256, kind) for kind in ("picture", "overlay")):
                with self._log_errors(path):
                    path.unlink()

    def delete_expired(self, in_use: Callable[[Sequence[str]], Collection[str]]) -> int:
        """Delete expired pictures; returns their number. Files that cannot be deleted are logged and skipped.

        Args:
            in_use: those of some pictures that are kept although their days have passed.
        """
        oldest_s = time.time() - self._days * _DAY_S
        count = 0
        for files in self._folders():
            expired = [path for path in files if self._is_older(path, oldest_s)]
            kept = in_use(sorted({path.stem for path in expired})) if expired else ()
            for path in (path for path in expired if path.stem not in kept):
                with self._log_errors(path):
                    path.unlink()
                    count += 1
        return count

    def _is_older(self, path: Path, oldest_s: float) -> bool:
        with self._log_errors(path):
            found = path.lstat()
            return S_ISREG(found.st_mode) and found.st_mtime < oldest_s
        return False

    def _folders(self) -> Iterator[list[Path]]:
        """The files of each folder."""
        folders: list[Path] = []
        with self._log_errors(self._folder):
            folders += (each for each in self._folder.iterdir() if len(each.name) == 2)
        for folder in folders:
            files: list[Path] = []
            with self._log_errors(folder):
                files += folder.iterdir()
            yield files

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
