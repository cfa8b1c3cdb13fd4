"""Reference cells: pictures of each class to compare a cell with. All calls block.

They come from a folder of the laboratory, from its signed specimens if it allows that, or else from drawings.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

from model.image import PictureError, format_of
from model.regular_file import read_regular_file
from service.lis.domain import signed_cells
from service.lis.picture_store import PictureStore
from service.lis.schemas import ReferenceCell
from service.lis.storage.database import Database

#: Drawings of the 21 classes; `python docs/pictures/reference.py` makes them.
DRAWN = Path(__file__).with_name("drawn_cells")
#: Most reference cells of a class.
MOST = 12
#: Largest file of a folder.
_MAX_BYTES = 8 * 1024 * 1024
#: What browsers show.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
#: What file systems add to folders, besides hidden files.
_FOREIGN = {"Thumbs.db", "desktop.ini"}


class ReferenceFolderError(Exception):
    """A folder of reference cells that cannot be used: path, reason and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class ReferenceFolder:
    """The pictures of a folder with one subfolder for each class code, by class and by SHA-256; the first 12 by name.

    File names are shown nowhere, because they may name a patient.
    """

    def __init__(self, pictures: Mapping[str, Mapping[str, Path]]) -> None:
        self._pictures = pictures

    @classmethod
    def load(cls, folder: Path) -> Self:
        """List a folder, and check that its files are pictures.

        Raises:
            ReferenceFolderError: there is no picture, or a file is none.
        """
        try:
            pictures = {each.name: _pictures_in(each) for each in sorted(_visible(folder)) if each.is_dir()}
        except NotADirectoryError:
            raise ReferenceFolderError(folder, "not a folder") from None
        except OSError as error:
            raise ReferenceFolderError(Path(error.filename or folder), error.strerror or str(error)) from None
        if not any(pictures.values()):
            raise ReferenceFolderError(folder, "no picture; put pictures into subfolders named by class codes")
        return cls(pictures)

    @property
    def codes(self) -> Sequence[str]:
        """Names of the subfolders."""
        return list(self._pictures)

    def of_class(self, code: str) -> Sequence[str]:
        """SHA-256 of the pictures of a class."""
        return list(self._pictures.get(code, ()))

    def read(self, code: str, picture: str) -> bytes | None:
        """A picture of a class; None if there is none, or its file is gone."""
        path = self._pictures.get(code, {}).get(picture)
        try:
            return None if path is None else read_regular_file(path, _MAX_BYTES)
        except OSError:
            return None


class ReferenceCells:
    """The reference cells of one laboratory.

    Args:
        folder: the laboratory's own pictures.
        signed: where the pictures of signed specimens are stored, if they are examples too.
    """

    def __init__(self, database: Database, folder: ReferenceFolder | None, signed: PictureStore | None) -> None:
        self._database, self._folder, self._signed = database, folder, signed
        self._drawn = ReferenceFolder.load(DRAWN)

    def list(self, code: str) -> list[ReferenceCell]:
        """The reference cells of a class: the laboratory's, then those of signed specimens, or else drawings."""
        pictures = () if self._folder is None else self._folder.of_class(code)
        own = [ReferenceCell(id=each, source="laboratory") for each in pictures]
        signed = [ReferenceCell(id=each, source="signed") for each in self._stored(code)]
        drawn = (ReferenceCell(id=each, source="drawn") for each in self._drawn.of_class(code))
        return [*own, *signed][:MOST] or list(drawn)

    def read(self, code: str, picture: str) -> bytes | None:
        """A picture of the folder or a drawing; None if it is neither."""
        folders = (self._drawn,) if self._folder is None else (self._folder, self._drawn)
        return next((found for each in folders if (found := each.read(code, picture)) is not None), None)

    def specimen_of(self, code: str, picture: str) -> str | None:
        """The id of the signed specimen that a picture is from; None if it is no reference cell."""
        if self._signed is None:
            return None
        with self._database.reading() as session:
            return signed_cells.specimen_of_picture(session, code, picture)

    def _stored(self, code: str) -> Iterator[str]:
        if self._signed is None:
            return
        with self._database.reading() as session:
            found = signed_cells.list_signed_pictures(session, code, 2 * MOST)
        yield from (each for each in dict.fromkeys(found) if self._signed.has(each))


def _visible(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if not each.name.startswith(".") and each.name not in _FOREIGN]


def _pictures_in(folder: Path) -> dict[str, Path]:
    return {sha256(_checked(path)).hexdigest(): path for path in sorted(_visible(folder))[:MOST]}


def _checked(path: Path) -> bytes:
    """The content of a picture. Raises ReferenceFolderError and OSError."""
    content = read_regular_file(path, _MAX_BYTES)
    try:
        is_shown = format_of(content[:512]) in _FORMATS
    except PictureError:
        is_shown = False
    if not is_shown:
        raise ReferenceFolderError(path, "no picture that browsers show; save it as JPEG or PNG, or remove it")
    return content
