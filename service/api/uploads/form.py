"""A multipart form that arrives in pieces: one ordinary file is found by a few searches, all else is parsed."""

import asyncio
import re

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.api.uploads.archives import Upload
from service.api.uploads.multipart import FormEnds, PictureForm, why_incomplete, why_unreadable
from service.errors import MalformedBody

#: A `Content-Type` as clients write it. Others are parsed.
_FORM = re.compile(r"multipart/form-data; ?boundary=([0-9A-Za-z'()+_,./:=?-]{1,70})", re.IGNORECASE)
#: The headers of a file as curl, browsers and HTTP libraries write them, without escapes and further parameters.
_FILE = re.compile(
    rb'content-disposition: form-data; name="([\w.-]+)"; filename="[^\x00-\x1f"\\\x7f-\xff]*"'
    rb"(?:\r\ncontent-type: (?:image|application)/[\w.+-]+)?\r\n\r\n",
    re.IGNORECASE,
)


class FormReader:
    """Collects the pictures of one form.

    A form of one ordinary file, which is what most clients of one picture send, takes a fifth of the parser's time. The
    parser would read it alike: a test compares them.

    Args:
        one_file: whether the form should hold one file, so that it is kept until its end shows that it does.

    Raises:
        MalformedBody: `content_type` names no boundary.
    """

    def __init__(self, content_type: str, form: PictureForm, *, one_file: bool) -> None:
        usual = _FORM.fullmatch(content_type)
        self._boundary = _boundary(content_type) if usual is None else usual[1].encode()
        self._form, self._ends = form, FormEnds()
        if not self._boundary:
            raise _unreadable(why_unreadable(self._ends, self._boundary))
        self._may_be_one_file = one_file and usual is not None
        self._pieces: list[bytes] = []  # not parsed yet
        self._parser: MultipartParser | None = None

    def write(self, piece: bytes) -> None:
        """Add the next piece of the body.

        Raises:
            MalformedBody, TooManyPictures: found so far.
        """
        if self._may_be_one_file and not self._pieces:
            self._may_be_one_file = self._begins_with_file(piece)
        if self._may_be_one_file:
            self._pieces.append(piece)
        else:
            self._parse(piece)

    async def pictures(self) -> list[Upload]:
        """All pictures, after the last piece.

        Raises:
            MalformedBody: the form cannot be read, or holds no picture.
            TooManyPictures.
        """
        if (found := self._only_file()) is not None:
            return [Upload(None, found)]
        for piece in self._pieces:
            self._parse(piece)
            await asyncio.sleep(0)  # for other requests
        if not self._form.complete:
            raise _unreadable(why_incomplete(self._ends, self._boundary))
        return self._form.pictures()

    def _begins_with_file(self, start: bytes) -> bool:
        found = _FILE.match(start, len(self._boundary) + 4)
        named = found is not None and found[1] == self._form.field_name.encode()
        return named and start.startswith(b"--%s\r\n" % self._boundary)

    def _only_file(self) -> bytes | None:
        """The file, if the form ends right after it, and the parser has nothing to say about it."""
        body = b"".join(self._pieces)
        headers = _FILE.match(body, len(self._boundary) + 4) if body else None
        if headers is None:
            return None
        start, delimiter = headers.end(), b"\r\n--%s" % self._boundary
        end = body.find(delimiter, start - 2)  # the line end of the headers can be that of an empty file's delimiter
        is_only = start <= end <= start + self._form.max_picture_bytes
        return body[start:end] if is_only and body[end + len(delimiter) :] in (b"--\r\n", b"--") else None

    def _parse(self, piece: bytes) -> None:
        try:
            if self._parser is None:
                self._parser = self._form.parser(self._boundary)
            self._ends.add(piece)
            self._parser.write(piece)
        except FormParserError as error:
            raise _unreadable(why_unreadable(self._ends, self._boundary)) from error


def _boundary(content_type: str) -> bytes:
    _, options = parse_options_header(content_type)
    return options.get(b"boundary", b"")


def _unreadable(why: str) -> MalformedBody:
    return MalformedBody(f"the multipart form cannot be read: {why}")
