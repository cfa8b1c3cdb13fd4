"""Pictures of cells that a laboratory keeps: files named after their content, for a number of days.

Knows a folder. Does not know specimens. A picture that two specimens share is one file; when it comes again its days
begin anew.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from model.image import format_of

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
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._days = days

    def put(self, sha256: str, data: bytes, kind: str = "picture") -> None:
        """Keep a picture, whole or not at all; `kind` tells what was made of it from the picture itself.

        Raises:
            OSError: the disk is full or not writable.
        """
        path = self._path(sha256, kind)
        if path.exists():
            os.utime(path)
            return
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)

    def get(self, sha256: str, kind: str = "picture") -> bytes | None:
        """A picture, or None when it was never kept, or not any more."""
        with suppress(FileNotFoundError):
            return self._path(sha256, kind).read_bytes()
        return None

    def forget_old(self) -> int:
        """Delete what has been kept for longer than the days, and say how many."""
        oldest_s = time.time() - self._days * _DAY_S
        old = [path for path in self._files() if path.stat().st_mtime < oldest_s]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    def _files(self) -> Iterator[Path]:
        return (path for path in self._folder.glob("??/*") if path.is_file())

    def _path(self, sha256: str, kind: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}.{kind}"
