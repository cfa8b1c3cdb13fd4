"""The cells that people have read, as a training list: `readings.csv` and the pictures it names.

`marrowlens-train` and `marrowlens verify --labels` read it. It names readers and no patient: the column `patient` is a
pseudonym, which keeps the cells of one patient together.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import NamedTuple
from zipfile import ZipFile

from model import csv_file
from model.image import format_of

LIST_NAME, PICTURES = "readings.csv", "pictures"
COLUMNS = ("file", "patient", "label", "reader", "suggested", "probability", "model", "read_at")
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}

#: A file name with its content.
File = tuple[str, bytes]


class ReadCell(NamedTuple):
    """One cell with its last reading by a person. `patient` is a pseudonym."""

    sha256: str
    patient: str
    label: str
    reader: str
    suggested: str
    probability: float
    model: str
    read_at: datetime


def exported(cells: Iterable[ReadCell], load: Callable[[str], bytes | None]) -> Iterator[File]:
    """The pictures, and the list of those that are stored, as the last file.

    Args:
        load: a stored picture by its SHA-256; None if it was not stored or has expired.
    """
    text = io.StringIO(newline="")
    rows = csv_file.Writer(text)
    rows.writerow(COLUMNS)
    for cell in cells:
        picture = load(cell.sha256)
        if picture is None:
            continue
        name = f"{PICTURES}/{cell.sha256}.{_SUFFIXES[format_of(picture[:16])]}"
        rows.writerow((name, *cell[1:-1], cell.read_at.isoformat(timespec="seconds")))
        yield name, picture
    yield LIST_NAME, text.getvalue().encode()


def zipped(files: Iterable[File]) -> Iterator[bytes]:
    """The files as the parts of a ZIP archive, one file in memory at a time. Pictures are compressed already."""
    sink = _Sink()
    with ZipFile(sink, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
            yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """Collects what was written since the last call of `take`. It cannot seek."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """The bytes written since the last call."""
        taken, self._written = bytes(self._written), bytearray()
        return taken
