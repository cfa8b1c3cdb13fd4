"""Pictures of cells that a laboratory keeps: files named after their content, for a number of days.

Knows a folder. Does not know specimens. A picture that two specimens share is one file; when it comes again its days
begin anew.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from model.image import format_of
from model.regular_file import LARGE_BYTES, read_regular_file
from service.lis.storage.file_rights import FILE_MODE, make_folder

log = logging.getLogger(__name__)

_DAY_S = 86_400.0


def media_type(picture: bytes) -> str:
    """Of a picture that was read before, whatever name it came under."""
    return f"image/{format_of(picture[:16]).lower()}"


class KeptPictures:
    """One folder. Everything here blocks."""

    def __init__(self, folder: Path, days: int) -> None:
        """
        Raises:
            OSError: the folder cannot be made.
        """
        make_folder(folder)
        self._folder = folder
        self._days = days

    def put(self, sha256: str, data: bytes, kind: str = "picture") -> None:
        """Keep a picture, whole or not at all; `kind` tells what was made of it from the picture itself.

        Raises:
            OSError: the disk is full or not writable.
        """
        path = self._path(sha256, kind)
        with suppress(FileNotFoundError):
            os.utime(path)
            return
        make_folder(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)

    def get(self, sha256: str, kind: str = "picture") -> bytes | None:
        """A picture, or None when it was never kept, or not any more."""
        with suppress(FileNotFoundError):
            return read_regular_file(self._path(sha256, kind), LARGE_BYTES)
        return None

    def forget_old(self) -> int:
        """Delete what has been kept for longer than the days, and say how many. One that cannot be is passed over."""
        oldest_s = time.time() - self._days * _DAY_S
        count = 0
        for path in self._files():
            with self._passing_over(path):
                found = path.lstat()
                if S_ISREG(found.st_mode) and found.st_mtime < oldest_s:
                    path.unlink()
                    count += 1
        return count

    def _files(self) -> Iterator[Path]:
        folders: list[Path] = []
        with self._passing_over(self._folder):
            folders += (each for each in self._folder.iterdir() if len(each.name) == 2)
        for folder in folders:
            files: list[Path] = []
            with self._passing_over(folder):
                files += folder.iterdir()
            yield from files

    @contextmanager
    def _passing_over(self, path: Path) -> Iterator[None]:
        """Go on after a file that cannot be looked at or deleted. Another process sweeps too: one that is gone is no
        news."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            log.warning("old pictures: %s: %s", path, error.strerror)

    def _path(self, sha256: str, kind: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}.{kind}"
