"""The parts of one multipart form (RFC 7578) to pictures, while the body comes in.

Fields of other names are ignored: forms carry more than pictures. A form of many pictures is refused when a picture
stands in such a field: it would be missing from the count.
"""

from dataclasses import dataclass, field

from python_multipart import MultipartParser

from model.image import PictureError, PictureTooLarge, format_of
from service.api.uploads.archives import Upload, printable
from service.api.uploads.base64_text import decode_base64
from service.api.uploads.file_names import disposition
from service.errors import MalformedBody, ServiceError, TooManyPictures

#: Fields beside the pictures: each costs time, and none is used.
MAX_OTHER_FIELDS = 100
_AS_IT_IS = ("", "7bit", "8bit", "binary")
_SIGNATURE_BYTES, _TEXT_BYTES = 16, 256
_NAMES_TOLD, _NAME_LENGTH = 3, 60


@dataclass(slots=True)
class _Part:
    headers: dict[str, bytes] = field(default_factory=dict)
    mine: bool = False
    name: str | None = None
    file: bool = False
    encoded: bool = False
    fault: ServiceError | None = None
    limit_bytes: int = _TEXT_BYTES
    size_bytes: int = 0
    data: bytearray = field(default_factory=bytearray)

    def header(self, name: str) -> str:
        return self.headers.get(name, b"").decode("ascii", "replace").strip().lower()


@dataclass(slots=True)
class Form:
    """The pictures of one form: the parts under one field name."""

    field_name: str
    max_pictures: int
    max_picture_bytes: int
    uploads: list[Upload] = field(default_factory=list)
    complete: bool = False
    _others: list[str] = field(default_factory=list)
    _strays: list[str] = field(default_factory=list)
    _part: _Part = field(default_factory=_Part)
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)

    def parser(self, boundary: bytes) -> MultipartParser:
        """A push parser that fills this form."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._identify,
                "on_part_data": self._grow,
                "on_part_end": self._end,
                "on_end": self._complete,
            },
        )

    def pictures(self) -> list[Upload]:
        """All of them, once the form is complete.

        Raises:
            MalformedBody: there is none, or one of many stands in a field of another name.
        """
        many = self.field_name.endswith("s")
        wanted = f'send the {"pictures" if many else "picture"} as "{self.field_name}"'
        if self._strays and (many or not self.uploads):
            raise MalformedBody(f"{_told(self._strays)}: a picture in an unknown form field; {wanted}")
        if not self.uploads:
            found = f"{_told(self._others)}: unknown form field" if self._others else "the form has no field"
            raise MalformedBody(f"{found}; {wanted}")
        return self.uploads

    def _begin(self) -> None:
        self._part = _Part()

    def _end_header(self) -> None:
        self._part.headers[bytes(self._header).decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _identify(self) -> None:
        part, found = self._part, disposition(self._part.headers.get("content-disposition", b""))
        if found.field is None:
            raise MalformedBody(
                f'a part of the form has no name: Content-Disposition: form-data; name="{self.field_name}"; filename=…'
            )
        part.mine = found.field == self.field_name
        if not part.mine:
            self._others.append(found.field)
            if len(self._others) > MAX_OTHER_FIELDS:
                raise MalformedBody(f'the form has more than {MAX_OTHER_FIELDS} fields beside "{self.field_name}"')
            return
        if len(self.uploads) >= self.max_pictures:
            raise TooManyPictures(self.max_pictures)
        part.name = None if found.filename is None else printable(found.filename)
        part.file = found.filename is not None or part.header("content-type").partition("/")[0] not in ("", "text")
        part.encoded = part.header("content-transfer-encoding") == "base64"
        part.fault = self._unread(part)
        # Base64 in lines of four characters is the longest that is worth reading.
        part.limit_bytes = 2 * self.max_picture_bytes + 1024 if part.encoded else self.max_picture_bytes

    def _unread(self, part: _Part) -> MalformedBody | None:
        transfer, coding = part.header("content-transfer-encoding"), part.header("content-encoding")
        if not part.encoded and transfer not in _AS_IT_IS:
            return MalformedBody(f"Content-Transfer-Encoding {printable(transfer)} is not read here; send binary")
        if coding not in ("", "identity"):
            return MalformedBody(f"Content-Encoding {printable(coding)} is not read here; send the file as it is")
        if part.header("content-type").startswith("multipart/"):
            return MalformedBody(f'a form within the form; send each picture as a field "{self.field_name}"')
        return None

    def _grow(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.size_bytes += end - start
        if not part.mine:
            part.data += data[start:end][: part.limit_bytes - len(part.data)]
        elif part.size_bytes > part.limit_bytes:
            part.data.clear()
        else:
            part.data += data[start:end]

    def _end(self) -> None:
        part = self._part
        if part.mine:
            self.uploads.append(Upload(part.name, part.fault or self._content(part)))
        elif _is_picture(part):
            self._strays.append(self._others[-1])

    def _content(self, part: _Part) -> bytes | PictureTooLarge | MalformedBody:
        if part.size_bytes > part.limit_bytes:
            return PictureTooLarge(f"{part.size_bytes} bytes; {self.max_picture_bytes} are allowed")
        if part.encoded:
            try:
                data = decode_base64(part.data.decode("latin-1"))
            except MalformedBody as error:
                return error
            if len(data) > self.max_picture_bytes:
                return PictureTooLarge(f"{len(data)} bytes; {self.max_picture_bytes} are allowed")
            return data
        data = bytes(part.data)
        if not part.file and _is_text(data):
            raise MalformedBody(
                f"{self.field_name} came as text, not as a file (with curl: {self.field_name}=@FILE; base64 needs "
                "Content-Transfer-Encoding: base64 in its part)"
            )
        return data

    def _complete(self) -> None:
        self.complete = True


def _is_text(data: bytes | bytearray) -> bool:
    """Whether it is what a person would write into a field of a form, a file's name or base64; nothing is, too."""
    start = data[:_TEXT_BYTES]
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else a character that the cut has divided
            return False
        text = start[: error.start].decode("utf-8")
    return all(each.isprintable() or each in "\r\n\t" for each in text)


def _is_picture(part: _Part) -> bool:
    """Whether a picture is meant, by its type or its first bytes. A slide's number BM-7 begins as a BMP does."""
    if part.header("content-type").startswith("image/") and part.data:
        return True
    try:
        format_of(bytes(part.data[:_SIGNATURE_BYTES]))
    except PictureError:
        return False
    return not _is_text(part.data)


def _told(names: list[str]) -> str:
    """Names for a sentence: the first of them, each shortened."""
    told = [printable(name)[:_NAME_LENGTH] for name in dict.fromkeys(names)]
    return ", ".join(told[:_NAMES_TOLD]) + (" and others" if len(told) > _NAMES_TOLD else "")
