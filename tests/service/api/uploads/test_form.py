"""A form of one file is read without the parser: whatever the form, both read it alike."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.api.uploads.archives import Upload
from service.api.uploads.form import FormReader
from service.api.uploads.multipart import PictureForm
from service.errors import MalformedBody, TooManyPictures

ORDINARY = 'form-data; name="image"; filename="c.jpg"'
DISPOSITIONS = [
    ORDINARY,
    'form-data; name="image"; filename=""',
    'form-data; name="image"; filename="a;b=c (1).png"',
    'form-data; name="image"; filename="a\\"b.png"',
    'form-data; name="image"; filename="ä.png"',
    'form-data; name="image"; filename="x.png"; filename*=utf-8\'\'y.png',
    'form-data; name="image"',
    'form-data; name="images"; filename="c.jpg"',
    'form-data; name="note"',
    "form-data; name=image; filename=c.jpg",
    'FORM-DATA; NAME="image"; FILENAME="c.jpg"',
    'form-data; filename="c.jpg"',
    "attachment",
]
FIELDS = [
    "Content-Type: image/jpeg",
    "content-type: application/octet-stream",
    "Content-Type: text/plain",
    "Content-Type: multipart/mixed",
    "Content-Transfer-Encoding: base64",
    "Content-Encoding: gzip",
    "Content-Length: 3",
    "broken",
]
CONTENT = st.binary(max_size=60) | st.sampled_from(
    [b"", b"\r\n", b"\r\n--B", b"\r\n--Bx", b"--B--\r\n", b"\r\n--B\r\n", b"YWJj"]
)
ENDS = [b"--B--\r\n", b"--B--", b"--B--\r\nepilogue", b"--B", b"--B\r\n", b"", b"--C--\r\n", b"--B-- \r\n"]


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    usual = draw(st.booleans())
    disposition = ORDINARY if usual else draw(st.sampled_from(DISPOSITIONS))
    fields = FIELDS[:1] if usual else draw(st.lists(st.sampled_from(FIELDS), max_size=2))
    names = [f"Content-Disposition: {disposition}", *fields]
    return "\r\n".join(["--B", *names, "", ""]).encode() + draw(CONTENT) + b"\r\n"


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    start = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"preamble\r\n"]))
    body = start + b"".join(draw(st.lists(parts(), min_size=1, max_size=2))) + draw(st.sampled_from(ENDS))
    if draw(st.booleans()):
        return body
    at, changed = draw(st.integers(0, len(body))), draw(st.sampled_from([b"", b"\r", b"\n", b"-", b"x", b"\x00", b'"']))
    return body[:at] + changed + body[at + draw(st.integers(0, 2)) :]


def read(pieces: list[bytes], content_type: str, *, one_file: bool) -> list[Upload] | str:
    """The pictures of a form, or the words in which it is refused. Of one file, its name is not read."""
    form = PictureForm("image", max_pictures=3, max_picture_bytes=40)
    try:
        reader = FormReader(content_type, form, one_file=one_file)
        for piece in pieces:
            reader.write(piece)
        found = asyncio.run(reader.pictures())
    except (MalformedBody, TooManyPictures) as error:
        return str(error)
    return [Upload(None, each.content) if isinstance(each.content, bytes) else each for each in found]


TYPES = [
    "multipart/form-data; boundary=B",
    "multipart/form-data;boundary=B",
    'multipart/form-data; boundary="B"',
    "Multipart/Form-Data; Boundary=B; charset=utf-8",
    "multipart/form-data; boundary=BB",
    "multipart/form-data; boundary=",
    "multipart/form-data",
]


@given(forms(), st.integers(1, 400), st.sampled_from([*TYPES[:1] * 4, *TYPES]))
@example(b'--B\r\nContent-Disposition: form-data; name="image"; filename="c"\r\n\r\nabc\r\n--B--\r\n', 400, TYPES[0])
@example(b'--B\r\nContent-Disposition: form-data; name="image"; filename="c"\r\n\r\n\r\n--B--', 400, TYPES[0])
@example(b'--B\r\nContent-Disposition: form-data; name="image"; filename="c"\r\n\r\n--B--\r\n', 400, TYPES[0])
@example(
    b'--B\r\nContent-Disposition: form-data; name="image"; filename="c"\r\n\r\n' + 41 * b"x" + b"\r\n--B--",
    400,
    TYPES[0],
)
def test_both_ways_read_a_form_alike(body: bytes, size: int, content_type: str) -> None:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    short, parsed = (read(pieces, content_type, one_file=wanted) for wanted in (True, False))
    assert _comparable(short) == _comparable(parsed)


def _comparable(found: list[Upload] | str) -> object:
    return found if isinstance(found, str) else [(type(each.content), str(each.content)) for each in found]


@pytest.mark.parametrize("field", ["", "\r\nContent-Type: image/png", "\r\ncontent-type: application/octet-stream"])
def test_what_clients_send_needs_no_parser(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(PictureForm, "parser")
    body = f"--B\r\nContent-Disposition: {ORDINARY}{field}\r\n\r\nabc\r\n--B--\r\n".encode()
    assert read([body[:-9], body[-9:]], TYPES[0], one_file=True) == [Upload(None, b"abc")]
