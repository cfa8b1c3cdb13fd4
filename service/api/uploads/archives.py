"""ZIP and tar bodies, member by member, in memory: nothing is unpacked to disk and no member's path is ever followed.

Reading blocks: call it in a thread. An archive is checked whole before its first member is given: one that is damaged,
cut off, or holds more than it lists is an error for the request, which says how many pictures were read. A member that
cannot be read is an error in that member's place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO

from model import tar_reader
from model.image import PictureError, PictureTooLarge, UndecodablePicture, format_of
from model.tar_reader import WITHOUT_BYTES, DamagedTar, Kind
from service.api.uploads import zip_reader
from service.api.uploads.zip_reader import DamagedZip
from service.errors import BodyTooLarge, MalformedBody, ServiceError, TooManyPictures


def _nothing() -> None:
    """Nobody waits for the memory."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture as it was sent: its name, if it came with one, and its bytes or why it has none.

    `settled` is called once it is answered, or needs no answer: then the memory of its bytes is free for others.
    """

    name: str | None
    content: bytes | PictureError | ServiceError
    settled: Callable[[], None] = field(default=_nothing, compare=False)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of an archive is read."""

    max_pictures: int
    max_picture_bytes: int
    max_unpacked_bytes: int


def zip_members(file: BytesIO, bounds: Bounds) -> Iterator[Upload]:
    """The members of a ZIP, in the order of its directory.

    Raises:
        MalformedBody: not a ZIP, a damaged one, or one with bytes that belong to no entry of its directory.
        TooManyPictures: more members than allowed.
    """
    body = file.getbuffer()
    try:
        directory = _checked_zip(body, bounds)
    except DamagedZip as error:
        raise MalformedBody(f"not a readable ZIP: {_other_type(body) or error}; pictures read: 0") from error

    def read(entry: zip_reader.Entry) -> bytes:
        if entry.encrypted:
            raise UndecodablePicture("encrypted in the archive")
        if entry.packed_by_other_method:
            raise UndecodablePicture("packed by a method that is not read here; use deflate or store")
        _check_size(entry.size, bounds)
        try:
            return zip_reader.unpacked(body, entry, directory)
        except DamagedZip as error:
            raise UndecodablePicture(f"damaged in the archive: {error}") from error

    return _uploads(((entry.name, partial(read, entry)) for entry in _zip_pictures(body, directory)), bounds)


def _checked_zip(body: memoryview, bounds: Bounds) -> zip_reader.Directory:
    directory = zip_reader.find_directory(body)
    spans, pictures = [], 0
    for number, entry in enumerate(zip_reader.entries(body, directory), start=1):
        pictures += not _is_left_out(entry)
        _check_count(pictures, number, bounds)
        spans.append(zip_reader.span(body, entry, directory))
    zip_reader.check_covered(body, directory, spans)
    return directory


def _other_type(body: memoryview) -> str | None:
    """What a body is that was sent as a ZIP and is none, where its beginning tells."""
    head = bytes(body[:512])
    if head[257:262] == b"ustar":
        return "it is a tar archive; send it with Content-Type: application/x-tar"
    try:
        return f"it is a {format_of(head)} file and no archive; send it to /classify, or in a ZIP"
    except PictureError:
        return None


def _zip_pictures(body: memoryview, directory: zip_reader.Directory) -> Iterator[zip_reader.Entry]:
    return (entry for entry in zip_reader.entries(body, directory) if not _is_left_out(entry))


def _is_left_out(entry: zip_reader.Entry) -> bool:
    is_folder = entry.size == 0 and entry.name.endswith(("/", "\\"))
    return is_folder or _is_litter(entry.name)


def tar_members(file: BytesIO, bounds: Bounds) -> Iterator[Upload]:
    """The members of an uncompressed tar, in order.

    Raises:
        MalformedBody: not a tar, a damaged one, one that was cut off, or several in one.
        TooManyPictures: more members than allowed.
    """
    pictures = 0
    try:
        for number, member in enumerate(tar_reader.members(file), start=1):
            pictures += _is_picture(member)
            _check_count(pictures, number, bounds)
    except DamagedTar as error:
        raise MalformedBody(
            f"not a readable tar: {error}; pictures read before that: {pictures}; none of them is answered"
        ) from error

    def read(member: tar_reader.Member) -> bytes:
        if member.kind is not Kind.FILE:
            raise UndecodablePicture(WITHOUT_BYTES[member.kind])
        _check_size(member.size, bounds)
        with file.getbuffer() as body:
            return bytes(body[member.offset : member.offset + member.size])

    found = (member for member in tar_reader.members(file) if _is_picture(member))
    return _uploads(((member.name, partial(read, member)) for member in found), bounds)


def _is_picture(member: tar_reader.Member) -> bool:
    return member.kind is not Kind.FOLDER and not _is_litter(member.name)


def _check_count(pictures: int, entries: int, bounds: Bounds) -> None:
    # Folders are free, but an archive of nothing else must end somewhere too.
    if pictures > bounds.max_pictures or entries > 2 * bounds.max_pictures + 1000:
        raise TooManyPictures(bounds.max_pictures)


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


def _check_size(size: int, bounds: Bounds) -> None:
    if size > bounds.max_picture_bytes:
        raise PictureTooLarge(f"{size} bytes; {bounds.max_picture_bytes} are allowed")


def printable(name: str) -> str:
    """A client's file name as it can stand in an answer: valid Unicode, at most 255 characters."""
    return name.encode("utf-8", "replace").decode("utf-8")[:255]


def _is_litter(name: str) -> bool:
    """What macOS and Windows leave in archives beside the files that a person put there."""
    last = name.rpartition("/")[2]
    return "/__MACOSX/" in f"/{name}/" or last.startswith("._") or last in (".DS_Store", "Thumbs.db")
