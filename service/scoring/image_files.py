"""Picture files of local folders: finding, naming and reading them."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from model.image import PictureError, PictureTooLarge

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
GONE = "gone before it was read"
#: Limits of a summary. Suffixes longer than _MAX_KIND, usually part of a name, are counted together.
_SHOWN, _MAX_KIND, _MAX_KINDS = 10, 24, 1000
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_ESCAPES = {ord("\\"): "\\\\", **{control: f"\\x{control:02x}" for control in _CONTROLS}}


class Skipped(Counter[str]):
    """Counts of skipped files and folders by kind: hidden, gone, linked folder, or the suffix of another file type."""

    def add(self, file_name: str) -> None:
        """Count a file whose name is not that of a picture."""
        suffix = os.path.splitext(file_name)[1].lower()
        kind = "hidden" if file_name.startswith(".") else escaped_name(suffix) or "without a suffix"
        is_listed = kind in self or (len(kind) <= _MAX_KIND and len(self) < _MAX_KINDS)
        self[kind if is_listed else "other suffixes"] += 1

    def __str__(self) -> str:
        return f"skipped {self.total()}: " + ", ".join(f"{count} {kind}" for kind, count in self.most_common(_SHOWN))


def is_picture_name(file_name: str) -> bool:
    """Whether a file name, without its folder, has a picture's suffix and is not hidden."""
    return file_name.lower().endswith(SUFFIXES) and not file_name.startswith(".")


def find_pictures(
    folder: Path, unreadable: Callable[[OSError], None] | None = None, skipped: Skipped | None = None
) -> Iterator[tuple[str, Path]]:
    """The pictures of a folder and its subfolders, sorted within each; links to folders are not followed.

    Args:
        unreadable: called with the error of a folder that cannot be listed.
        skipped: counts all other files.

    Yields:
        The name in the table, with / between the parts, and the path.
    """
    skipped = Skipped() if skipped is None else skipped
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if _is_walked(parent, name, skipped))
        path = Path(parent)
        inside = path.relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for file in sorted(files):
            if is_picture_name(file):
                yield escaped_name(prefix + file), path / file
            else:
                skipped.add(file)


def _is_walked(parent: str, folder: str, skipped: Skipped) -> bool:
    kind = "hidden" if folder.startswith(".") else "linked folder" * os.path.islink(os.path.join(parent, folder))
    skipped.update([kind] if kind else [])
    return not kind


def escaped_name(name: str) -> str:
    """A file name that any table and terminal can hold: control characters and non-UTF-8 bytes become escapes."""
    return os.fsencode(name.translate(_ESCAPES)).decode("utf-8", "backslashreplace")


def read_pictures(paths: Iterable[Path], max_image_bytes: int) -> list[bytes | PictureError | OSError]:
    """The bytes of each picture, or the error."""
    return [read_picture(path, max_image_bytes) for path in paths]


def read_picture(path: Path, max_image_bytes: int) -> bytes | PictureError | OSError:
    """The bytes of a picture, or the error."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
            return OSError("not a file")
        if found.st_size > max_image_bytes:
            return PictureTooLarge(f"the picture has {found.st_size} bytes; {max_image_bytes} are allowed")
        return path.read_bytes()
    except OSError as error:
        return error


def error_reason(error: PictureError | OSError) -> str:
    """Why a picture could not be scored, without its file name."""
    return error.reason if isinstance(error, PictureError) else f"cannot be read ({error.strerror or error})"
