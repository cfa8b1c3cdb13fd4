"""The pictures of a multipart form (RFC 7578), parsed while the body arrives.

Fields of other names are ignored. A form of many pictures is rejected when another field holds a picture, because that
picture would be missing from the count.
"""

from dataclasses import dataclass, field
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import unquote
from typing import NamedTuple

from python_multipart import MultipartParser

from model.image import PictureError, PictureTooLarge, format_of
from service.api.uploads.archives import Upload, safe_text
from service.api.uploads.json_text import decode_base64
from service.errors import MalformedBody, ServiceError, TooManyPictures

#: Limit of fields beside the pictures. They cost time and are not used.
MAX_OTHER_FIELDS = 100
_UNENCODED = ("", "7bit", "8bit", "binary")
_SIGNATURE_BYTES, _TEXT_BYTES = 16, 256
_LISTED_NAMES, _NAME_LENGTH = 3, 60
_HEAD_BYTES, _TAIL_BYTES = 2048, 512


@dataclass(slots=True)
class _Part:
    headers: dict[str, bytes] = field(default_factory=dict)
    wanted: bool = False
    name: str | None = None
    is_file: bool = False
    is_base64: bool = False
    error: ServiceError | None = None
    limit_bytes: int = _TEXT_BYTES
    size_bytes: int = 0
    data: bytearray = field(default_factory=bytearray)

    def header(self, name: str) -> str:
        return self.headers.get(name, b"").decode("ascii", "replace").strip().lower()


@dataclass(slots=True)
class PictureForm:
    """The pictures of one form: the parts whose field is `field_name`."""

    field_name: str
    max_pictures: int
    max_picture_bytes: int
    uploads: list[Upload] = field(default_factory=list)
    complete: bool = False
    _other_fields: list[str] = field(default_factory=list)
    _misplaced: list[str] = field(default_factory=list)  # other fields that hold a picture
    _part: _Part = field(default_factory=_Part)
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)

    def parser(self, boundary: bytes) -> MultipartParser:
        """A push parser that fills this form."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
        )

    def pictures(self) -> list[Upload]:
        """All pictures of the complete form.

        Raises:
            MalformedBody: there is none, or one of many is in a field of another name.
        """
        many = self.field_name.endswith("s")
        advice = f'send the {"pictures" if many else "picture"} as "{self.field_name}"'
        if self._misplaced and (many or not self.uploads):
            raise MalformedBody(f"{_listed(self._misplaced)}: a picture in an unknown form field; {advice}")
        if not self.uploads:
            found = f"{_listed(self._other_fields)}: unknown form field" if self._other_fields else "the form is empty"
            raise MalformedBody(f"{found}; {advice}")
        return self.uploads

    def _begin_part(self) -> None:
        self._part = _Part()

    def _end_header(self) -> None:
        self._part.headers[bytes(self._header).decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        part, found = self._part, parse_disposition(self._part.headers.get("content-disposition", b""))
        if found.field is None:
            raise MalformedBody(
                f'a part of the form has no name; send Content-Disposition: form-data; name="{self.field_name}"; '
                "filename=…"
            )
        part.wanted = found.field == self.field_name
        if not part.wanted:
            self._other_fields.append(found.field)
            if len(self._other_fields) > MAX_OTHER_FIELDS:
                raise MalformedBody(f'the form has more than {MAX_OTHER_FIELDS} fields beside "{self.field_name}"')
            return
        if len(self.uploads) >= self.max_pictures:
            raise TooManyPictures(self.max_pictures)
        part.name = None if found.filename is None else safe_text(found.filename)
        part.is_file = found.filename is not None or part.header("content-type").partition("/")[0] not in ("", "text")
        part.is_base64 = part.header("content-transfer-encoding") == "base64"
        part.error = self._unsupported(part)
        # Base64 in lines of four characters is the longest form that is accepted.
        part.limit_bytes = 2 * self.max_picture_bytes + 1024 if part.is_base64 else self.max_picture_bytes

    def _unsupported(self, part: _Part) -> MalformedBody | None:
        transfer, coding = part.header("content-transfer-encoding"), part.header("content-encoding")
        if not part.is_base64 and transfer not in _UNENCODED:
            return MalformedBody(f"Content-Transfer-Encoding {safe_text(transfer)} is not supported; send binary")
        if coding not in ("", "identity"):
            return MalformedBody(f"Content-Encoding {safe_text(coding)} is not supported; send the file uncompressed")
        if part.header("content-type").startswith("multipart/"):
            return MalformedBody(f'a form inside the form; send each picture as its own field "{self.field_name}"')
        return None

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.size_bytes += end - start
        if not part.wanted:
            part.data += data[start:end][: part.limit_bytes - len(part.data)]
        elif part.size_bytes > part.limit_bytes:
            part.data.clear()
        else:
            part.data += data[start:end]

    def _end_part(self) -> None:
        part = self._part
        if part.wanted:
            self.uploads.append(Upload(part.name, part.error or self._content(part)))
        elif _is_picture(part):
            self._misplaced.append(self._other_fields[-1])

    def _content(self, part: _Part) -> bytes | PictureTooLarge | MalformedBody:
        if part.size_bytes > part.limit_bytes:
            return PictureTooLarge(f"{part.size_bytes} bytes; {self.max_picture_bytes} are allowed")
        if part.is_base64:
            try:
                data = decode_base64(part.data.decode("latin-1"))
            except MalformedBody as error:
                return error
            if len(data) > self.max_picture_bytes:
                return PictureTooLarge(f"{len(data)} bytes; {self.max_picture_bytes} are allowed")
            return data
        data = bytes(part.data)
        if not part.is_file and _is_text(data):
            raise MalformedBody(
                f"{self.field_name} is text, not a file; with curl send {self.field_name}=@FILE (base64 needs "
                "Content-Transfer-Encoding: base64 in its part)"
            )
        return data

    def _end_form(self) -> None:
        self.complete = True


def _is_text(data: bytes | bytearray) -> bool:
    """Whether the data is printable text, such as a file name or base64. Empty data is text."""
    start = data[:_TEXT_BYTES]
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not just a character that was cut in two at the end
            return False
        text = start[: error.start].decode("utf-8")
    return all(each.isprintable() or each in "\r\n\t" for each in text)


def _is_picture(part: _Part) -> bool:
    """Whether the part is a picture, by its Content-Type or its signature. Text is none: BM-7 starts like a BMP."""
    if part.header("content-type").startswith("image/") and part.data:
        return True
    try:
        format_of(bytes(part.data[:_SIGNATURE_BYTES]))
    except PictureError:
        return False
    return not _is_text(part.data)


def _listed(names: list[str]) -> str:
    """The first names, each shortened."""
    shown = [safe_text(name)[:_NAME_LENGTH] for name in dict.fromkeys(names)]
    return ", ".join(shown[:_LISTED_NAMES]) + (" and others" if len(shown) > _LISTED_NAMES else "")


# Field and file names


class Disposition(NamedTuple):
    """The field and file name of a part; None if its header has none."""

    field: str | None
    filename: str | None


def parse_disposition(header: bytes) -> Disposition:
    """The names in a `Content-Disposition` header; `filename*` wins over `filename` (RFC 6266, 4.3)."""
    message = Message()
    message["Content-Disposition"] = header.decode("utf-8", "replace")
    plain: dict[str, str] = {}
    extended: dict[str, str] = {}
    for name, value in message.get_params([], "Content-Disposition")[1:]:
        if isinstance(value, tuple):
            extended.setdefault(name.lower(), _decode_extended(value))
        else:
            plain.setdefault(name.lower(), value)
    filename = extended.get("filename")
    if filename is None and "filename" in plain:
        filename = _without_windows_path(_decode_words(plain["filename"]))
    return Disposition(extended.get("name", plain.get("name")), filename)


def _decode_extended(value: tuple[str | None, str | None, str]) -> str:
    """The text of `utf-8''%C3%A4.jpg` (RFC 5987). `email` has split it and decoded it as Latin-1."""
    charset, _, text = value
    octets = unquote(text).encode("latin-1", "replace")
    try:
        return octets.decode(charset or "utf-8", "replace")
    except (LookupError, UnicodeError):  # an unknown charset, or one without a replacement character
        return octets.decode("utf-8", "replace")


def _decode_words(name: str) -> str:
    """The text of `=?utf-8?B?w6QuanBn?=` (RFC 2047). .NET sends non-ASCII names like this."""
    if "=?" not in name or "?=" not in name:
        return name
    try:
        return str(make_header(decode_header(name))) or name
    except (MessageError, LookupError, ValueError):
        return name


def _without_windows_path(name: str) -> str:
    """The last part of a Windows path: some clients send the whole path."""
    return name.rpartition("\\")[2] if name[1:3] == ":\\" or name.startswith("\\\\") else name


# Error messages: common mistakes in forms written by hand (RFC 2046, 5.1)


@dataclass(slots=True)
class FormEnds:
    """The first and last bytes of a body."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytes = b""

    def add(self, piece: bytes) -> None:
        """Add the next piece of the body."""
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self.tail = (self.tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]


_LF_ONLY = "its lines end in LF; they must end in CR LF"


def why_unreadable(ends: FormEnds, boundary: bytes) -> str:
    """The mistake in a form that the parser rejected."""
    if not boundary:
        return "Content-Type names no boundary; let the HTTP client set that header"
    if not ends.head:
        return "the boundary in Content-Type is invalid; it may have at most 70 characters"
    delimiter, start = b"--" + boundary, bytes(ends.head.lstrip(b"\r\n"))
    line = start.partition(b"\n")[0]
    if line.rstrip(b"\r \t") == delimiter:
        if _has_lf_lines(start):
            return _LF_ONLY
        return "the headers of a part cannot be read; send lines of `Name: value`, then a blank line"
    if boundary.startswith(b"--") and line.rstrip() == boundary:
        return f"the boundary in Content-Type includes the two dashes; write boundary={_shown(boundary[2:])}"
    if line.rstrip() == boundary:
        return f"the boundary line lacks the two dashes; write --{_shown(boundary)}"
    if delimiter in start:
        return "there is text before the first boundary (a preamble); begin with the boundary"
    if line.startswith(b"--"):
        return f"its boundary is {_shown(line.rstrip()[2:])}, but Content-Type names {_shown(boundary)}"
    return _not_a_form(start, delimiter)


def why_incomplete(ends: FormEnds, boundary: bytes) -> str:
    """The mistake in a form that has no end."""
    delimiter = b"--" + boundary
    if not ends.head:
        return "the body is empty"
    if bytes(ends.head).startswith(delimiter) and _has_lf_lines(bytes(ends.head)):
        return _LF_ONLY
    tail = ends.tail.rstrip()
    if tail.endswith(delimiter + b"--"):
        return "its closing boundary is not on its own line; put CR LF before it, not LF alone"
    if tail.endswith(delimiter):
        return f"its closing boundary lacks the last two dashes; write {_shown(delimiter)}--"
    if bytes(ends.head).lstrip(b"\r\n").startswith(delimiter):
        return "it was cut off, or its closing boundary is not on its own line"
    return _not_a_form(bytes(ends.head), delimiter)


def _has_lf_lines(start: bytes) -> bool:
    first = start.partition(b"\n")[0]
    return not first.endswith(b"\r") or (b"\n\n" in start and b"\r\n\r\n" not in start)


def _not_a_form(start: bytes, delimiter: bytes) -> str:
    try:
        found = format_of(start[:16])
    except PictureError:
        return f"it does not begin with its boundary, {_shown(delimiter)}"
    return f"it is a {found} file, not a form; send it with Content-Type: image/{found.lower()}"


def _shown(boundary: bytes) -> str:
    return boundary[:80].decode("ascii", "replace")
