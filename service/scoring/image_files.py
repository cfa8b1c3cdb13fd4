"""Folders of pictures: which files count, how each is called in a table, and its bytes or why there are none.

Knows file systems and file names. Knows no tables, no model and no stores but the machine's own.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from model.image import PictureError, PictureTooLarge

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
GONE = "gone before it was read"
#: Kinds in a summary; longer suffixes, which are names with a dot, are counted together.
_SHOWN, _MAX_KIND, _MAX_KINDS = 10, 24, 1000
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_ESCAPES = {ord("\\"): "\\\\", **{control: f"\\x{control:02x}" for control in _CONTROLS}}


class Skipped(Counter[str]):
    """Files and folders that were passed over, by kind: hidden, gone, linked folders, or another type's suffix."""

    def add(self, file_name: str) -> None:
        """A file that is no picture by its name."""
        suffix = os.path.splitext(file_name)[1].lower()
        kind = "hidden" if file_name.startswith(".") else printable(suffix) or "without a suffix"
        is_listed = kind in self or (len(kind) <= _MAX_KIND and len(self) < _MAX_KINDS)
        self[kind if is_listed else "other suffixes"] += 1

    def __str__(self) -> str:
        return f"skipped {self.total()}: " + ", ".join(f"{count} {kind}" for kind, count in self.most_common(_SHOWN))


def counts(file_name: str) -> bool:
    """Whether a file of this name, without its folder, is taken for a picture. Hidden ones are left out."""
    return file_name.lower().endswith(SUFFIXES) and not file_name.startswith(".")


def pictures(
    folder: Path, unreadable: Callable[[OSError], None] | None = None, skipped: Skipped | None = None
) -> Iterator[tuple[str, Path]]:
    """Name in the table and path of each picture, folder by folder; links to folders are not followed.

    Args:
        unreadable: is told of folders that cannot be listed.
        skipped: counts what else is there.
    """
    skipped = Skipped() if skipped is None else skipped
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if _is_walked(parent, name, skipped))
        for file in sorted(files):
            if counts(file):
                path = Path(parent, file)
                yield printable(path.relative_to(folder).as_posix()), path
            else:
                skipped.add(file)


def _is_walked(parent: str, folder: str, skipped: Skipped) -> bool:
    kind = "hidden" if folder.startswith(".") else "linked folder" * os.path.islink(os.path.join(parent, folder))
    skipped.update([kind] if kind else [])
    return not kind


def printable(name: str) -> str:
    """A file name as text that can stand in any table and terminal: control characters and non-UTF-8 as escapes."""
    return os.fsencode(name.translate(_ESCAPES)).decode("utf-8", "backslashreplace")


def read(path: Path, max_image_bytes: int) -> bytes | PictureError | OSError:
    """The bytes of one picture, or why there are none."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            return OSError("not a file")
        if found.st_size > max_image_bytes:
            return PictureTooLarge(f"the picture has {found.st_size} bytes; {max_image_bytes} are allowed")
        return path.read_bytes()
    except OSError as error:
        return error


def reason(error: PictureError | OSError) -> str:
    """Why a picture has no answer, in words that name no file."""
    return error.reason if isinstance(error, PictureError) else f"cannot be read ({error.strerror or error})"
