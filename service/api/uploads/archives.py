"""Members of ZIP and tar bodies, unpacked in memory. Nothing is written to disk; a member's path is only its name.

Reading blocks, so call it in a thread. The whole archive is checked before its first member is yielded: a damaged,
truncated or concatenated archive fails the request, with the number of pictures found so far. An unreadable member
fails alone.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO

from model import tar_reader
from model.image import PictureError, PictureTooLarge, UndecodablePicture, format_of
from model.tar_reader import WITHOUT_BYTES, DamagedTar, Kind
from service.api.uploads import zip_reader
from service.api.uploads.memory_budget import MemoryReservation
from service.api.uploads.zip_reader import DamagedZip
from service.errors import BodyTooLarge, MalformedBody, ServiceError, TooManyPictures, UploadMemoryExhausted


def _no_release() -> None:
    """For an upload that holds no reserved memory."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded picture: its name, if it has one, and its bytes or the reason why it has none.

    `release` frees the memory reserved for the bytes. Call it once the picture is answered.
    """

    name: str | None
    content: bytes | PictureError | ServiceError
    release: Callable[[], None] = field(default=_no_release, compare=False)

    @property
    def size_bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else 0


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much of an archive is read."""

    max_pictures: int
    max_picture_bytes: int
    max_unpacked_bytes: int


@dataclass(slots=True)
class ArchiveMemory:
    """Memory for the unpacked members of one archive: those not yet answered, and the next one.

    Room for one member of the largest size is reserved at the start, so every archive can be read to its end. More
    members are unpacked ahead while memory is free, up to twice that size.

    Raises:
        UploadMemoryExhausted: no room for one member.
    """

    reservation: MemoryReservation
    max_picture_bytes: int
    _held_bytes: int = 0
    _reserved_bytes: int = 0
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._resize(self.max_picture_bytes)

    async def wait_for_room(self) -> None:
        """Return once the next member has room."""
        while self._held_bytes and not self._has_room():
            self._released.clear()
            await self._released.wait()

    def hold(self, upload: Upload) -> Upload:
        """The unpacked member; its bytes count until it is released."""
        self._held_bytes += upload.size_bytes
        self._shrink()
        return replace(upload, release=partial(self._release, upload.size_bytes))

    def _has_room(self) -> bool:
        if self._held_bytes > self.max_picture_bytes:
            return False
        try:
            self._resize(self._held_bytes + self.max_picture_bytes)
        except UploadMemoryExhausted:
            return False
        return True

    def _release(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes
        self._shrink()
        self._released.set()

    def _shrink(self) -> None:
        self._resize(min(self._reserved_bytes, max(self._held_bytes, self.max_picture_bytes)))

    def _resize(self, count: int) -> None:
        self.reservation.add(count - self._reserved_bytes)
        self._reserved_bytes = count


def zip_members(file: BytesIO, limits: ArchiveLimits) -> Iterator[Upload]:
    """The members of a ZIP, in the order of its central directory.

    Raises:
        MalformedBody: not a ZIP, a damaged one, or one with bytes outside the entries of its directory.
        TooManyPictures: more members than allowed.
    """
    body = file.getbuffer()
    try:
        directory = _checked_zip(body, limits)
    except DamagedZip as error:
        raise MalformedBody(f"not a readable ZIP: {_other_type(body) or error}; pictures read: 0") from error

    def read(entry: zip_reader.Entry) -> bytes:
        if entry.encrypted:
            raise UndecodablePicture("encrypted in the archive; send it unencrypted")
        if not entry.method_supported:
            raise UndecodablePicture("unsupported compression method in the archive; use deflate or store")
        _check_size(entry.size, limits)
        try:
            return zip_reader.unpack(body, entry, directory)
        except DamagedZip as error:
            raise UndecodablePicture(f"damaged in the archive: {error}") from error

    return _uploads(((entry.name, partial(read, entry)) for entry in _zip_pictures(body, directory)), limits)


def _checked_zip(body: memoryview, limits: ArchiveLimits) -> zip_reader.Directory:
    directory = zip_reader.find_directory(body)
    spans, pictures = [], 0
    for number, entry in enumerate(zip_reader.entries(body, directory), start=1):
        pictures += not _is_skipped(entry)
        _check_count(pictures, number, limits)
        spans.append(zip_reader.span(body, entry, directory))
    zip_reader.check_covered(body, directory, spans)
    return directory


def _other_type(body: memoryview) -> str | None:
    """The format of a body that was sent as a ZIP but is none; None if its first bytes do not tell."""
    head = bytes(body[:512])
    if head[257:262] == b"ustar":
        return "it is a tar archive; send it with Content-Type: application/x-tar"
    try:
        return f"it is a {format_of(head)} file, not an archive; send it to /classify, or in a ZIP"
    except PictureError:
        return None


def _zip_pictures(body: memoryview, directory: zip_reader.Directory) -> Iterator[zip_reader.Entry]:
    return (entry for entry in zip_reader.entries(body, directory) if not _is_skipped(entry))


def _is_skipped(entry: zip_reader.Entry) -> bool:
    is_folder = entry.size == 0 and entry.name.endswith(("/", "\\"))
    return is_folder or _is_system_file(entry.name)


def tar_members(file: BytesIO, limits: ArchiveLimits) -> Iterator[Upload]:
    """The members of an uncompressed tar, in order.

    Raises:
        MalformedBody: not a tar, a damaged or truncated one, or several in one body.
        TooManyPictures: more members than allowed.
    """
    pictures = 0
    try:
        for number, member in enumerate(tar_reader.members(file), start=1):
            pictures += _is_picture(member)
            _check_count(pictures, number, limits)
    except DamagedTar as error:
        raise MalformedBody(
            f"not a readable tar: {error}; pictures read before that: {pictures}; none of them is classified"
        ) from error

    def read(member: tar_reader.Member) -> bytes:
        if member.kind is not Kind.FILE:
            raise UndecodablePicture(WITHOUT_BYTES[member.kind])
        _check_size(member.size, limits)
        with file.getbuffer() as body:
            return bytes(body[member.offset : member.offset + member.size])

    found = (member for member in tar_reader.members(file) if _is_picture(member))
    return _uploads(((member.name, partial(read, member)) for member in found), limits)


def _is_picture(member: tar_reader.Member) -> bool:
    return member.kind is not Kind.FOLDER and not _is_system_file(member.name)


def _check_count(pictures: int, entries: int, limits: ArchiveLimits) -> None:
    # Folders do not count as pictures, but an archive of folders alone must have a limit too.
    if pictures > limits.max_pictures or entries > 2 * limits.max_pictures + 1000:
        raise TooManyPictures(limits.max_pictures)


def _uploads(members: Iterator[tuple[str, Callable[[], bytes]]], limits: ArchiveLimits) -> Iterator[Upload]:
    unpacked = 0
    for name, read in members:
        content: bytes | PictureError | ServiceError
        if unpacked >= limits.max_unpacked_bytes:
            content = BodyTooLarge(limits.max_unpacked_bytes, "the unpacked archive")
        else:
            content = _content(read)
        unpacked += len(content) if isinstance(content, bytes) else 0
        yield Upload(safe_text(name), content)


def _content(read: Callable[[], bytes]) -> bytes | PictureError:
    try:
        return read()
    except PictureError as error:
        return error


def _check_size(size: int, limits: ArchiveLimits) -> None:
    if size > limits.max_picture_bytes:
        raise PictureTooLarge(f"{size} bytes; {limits.max_picture_bytes} are allowed")


def safe_text(name: str) -> str:
    """A client's text for an answer: valid Unicode, at most 255 characters."""
    return name.encode("utf-8", "replace").decode("utf-8")[:255]


def _is_system_file(name: str) -> bool:
    """Whether macOS or Windows wrote the file, beside those that a person put there."""
    last = name.rpartition("/")[2]
    return "/__MACOSX/" in f"/{name}/" or last.startswith("._") or last in (".DS_Store", "Thumbs.db")
