"""ZIP and tar bodies, member by member, in memory: nothing is unpacked to disk and no member's path is ever followed.

Knows archives and their bounds. Does not know pictures or HTTP. Reading blocks: call it in a thread. An archive that
cannot be indexed is an error for the request; a member that cannot be read is an error in that member's place.
"""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath

from model.image import PictureError, PictureTooLarge, UndecodablePicture
from service.errors import BodyTooLarge, MalformedBody, ServiceError, TooManyPictures

_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: What zipfile and tarfile raise on damaged or hostile input.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_ENTRY, _END_OF_DIRECTORY, _ZIP64_LOCATOR = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES, _LOCATOR_BYTES, _MAX_COMMENT_BYTES = 22, 20, 65_535
#: Directory bytes per picture allowed: a header of 46, and room for a long name and extra fields.
_DIRECTORY_BYTES = 512


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture as it was sent: its name, if it came with one, and its bytes or why it has none."""

    name: str | None
    content: bytes | PictureError | ServiceError


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of an archive is read."""

    max_pictures: int
    max_picture_bytes: int
    max_unpacked_bytes: int


def zip_members(file: BytesIO, bounds: Bounds) -> Iterator[Upload]:
    """The members of a ZIP, in the order of its directory.

    Raises:
        MalformedBody: not a ZIP, or one whose directory is damaged.
        TooManyPictures: more members than allowed.
    """
    _check_directory(file, bounds)
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise MalformedBody(f"not a readable ZIP ({_reason(error)})") from error
    members = [info for info in archive.infolist() if not _is_left_out(info.filename)]
    if len(members) > bounds.max_pictures:
        raise TooManyPictures(bounds.max_pictures)

    def read(info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & 1:
            raise UndecodablePicture("encrypted in the archive")
        if info.compress_type not in _READ_METHODS:
            raise UndecodablePicture("packed by a method that is not read here; use deflate or store")
        _check_size(info.file_size, bounds)
        with archive.open(info) as member:
            return member.read(bounds.max_picture_bytes + 1)

    return _uploads(((info.filename, partial(read, info)) for info in members), bounds)


def tar_members(file: BytesIO, bounds: Bounds) -> Iterator[Upload]:
    """The members of an uncompressed tar, in order.

    Raises:
        MalformedBody: not a tar, or a damaged one.
        TooManyPictures: more members than allowed.
    """
    try:
        archive = tarfile.open(fileobj=file, mode="r:")
        members = list(_tar_index(archive, bounds))
    except _DAMAGE as error:
        raise MalformedBody(f"not a readable tar, uncompressed ({_reason(error)})") from error

    def read(info: tarfile.TarInfo) -> bytes:
        if not info.isreg() or info.issparse():
            raise UndecodablePicture("a link or a special file in the archive")
        _check_size(info.size, bounds)
        member = archive.extractfile(info)
        data = member.read() if member else b""
        if len(data) != info.size:
            raise UndecodablePicture("cut off in the archive")
        return data

    return _uploads(((info.name, partial(read, info)) for info in members), bounds)


def _tar_index(archive: tarfile.TarFile, bounds: Bounds) -> Iterator[tarfile.TarInfo]:
    pictures = 0
    for entries, info in enumerate(archive, start=1):
        counts = not info.isdir() and not _is_litter(info.name)
        pictures += counts
        if pictures > bounds.max_pictures or entries > _max_entries(bounds):
            raise TooManyPictures(bounds.max_pictures)
        if counts:
            yield info


def _uploads(members: Iterator[tuple[str, Callable[[], bytes]]], bounds: Bounds) -> Iterator[Upload]:
    unpacked = 0
    for name, read in members:
        content: bytes | PictureError | ServiceError
        if unpacked >= bounds.max_unpacked_bytes:
            content = BodyTooLarge(bounds.max_unpacked_bytes, "the archive, unpacked,")
        else:
            content = _content(read)
        unpacked += len(content) if isinstance(content, bytes) else 0
        yield Upload(printable(name), content)


def _content(read: Callable[[], bytes]) -> bytes | PictureError:
    try:
        return read()
    except PictureError as error:
        return error
    except _DAMAGE:
        return UndecodablePicture("damaged in the archive")


def _check_size(size: int, bounds: Bounds) -> None:
    if size > bounds.max_picture_bytes:
        raise PictureTooLarge(f"{size} bytes; {bounds.max_picture_bytes} are allowed")


def _check_directory(file: BytesIO, bounds: Bounds) -> None:
    # zipfile makes an object of each entry before anyone can count them, so the directory's own size is bounded first.
    with file.getbuffer() as body:
        size_bytes, tail = len(body), bytes(body[-(_END_BYTES + _LOCATOR_BYTES + _MAX_COMMENT_BYTES) :])
    at = tail.rfind(_END_OF_DIRECTORY)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise MalformedBody("not a readable ZIP (it has no directory at its end)")
    if at >= _LOCATOR_BYTES and tail.startswith(_ZIP64_LOCATOR, at - _LOCATOR_BYTES):
        raise MalformedBody("not a readable ZIP (ZIP64 is for archives larger than are taken here)")
    (directory_bytes,) = struct.unpack_from("<L", tail, at + 12)
    if directory_bytes > size_bytes:
        raise MalformedBody("not a readable ZIP (it ends before its directory does)")
    if directory_bytes > _DIRECTORY_BYTES * (bounds.max_pictures + 128):
        raise TooManyPictures(bounds.max_pictures)
    # A name may hold the mark of an entry, but not the names of an archive that is worth reading.
    end_at = size_bytes - len(tail) + at
    if bytes(file.getbuffer()[max(0, end_at - directory_bytes) : end_at]).count(_ENTRY) > _max_entries(bounds):
        raise TooManyPictures(bounds.max_pictures)


def _max_entries(bounds: Bounds) -> int:
    """Folders are free, but an archive of nothing else must end somewhere too."""
    return 2 * bounds.max_pictures + 1000


def printable(name: str) -> str:
    """A client's file name as it can stand in an answer: valid Unicode, at most 255 characters."""
    return name.encode("utf-8", "replace").decode("utf-8")[:255]


def _is_left_out(name: str) -> bool:
    # ZipInfo.is_dir() of Python 3.11 looks at the last letter of a name that has none.
    return name.endswith("/") or _is_litter(name)


def _is_litter(name: str) -> bool:
    """What macOS and Windows leave in archives beside the files that a person put there."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name in (".DS_Store", "Thumbs.db")


def _reason(error: BaseException) -> str:
    return type(error).__name__
