"""What is not read is called by its name, with what to do; nothing of its content is repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from named_types import NAMED, PICTURE, archive
from pictures import encoded, plain

from model.formats.errors import ArchiveForPicture, PictureError, UndecodablePicture, UnsupportedPicture
from model.formats.file_types import format_of
from model.image import decode


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_read_is_called_by_its_name(name: str) -> None:
    data, sentence = NAMED[name]
    with pytest.raises(UnsupportedPicture, match=sentence) as caught:
        decode(data, 32)
    assert ("send" in caught.value.reason) and "Müller" not in caught.value.reason


def test_a_zip_is_an_archive_whatever_it_begins_with() -> None:
    for data in (archive(), b"PK\x05\x06" + bytes(18), b"PK\x07\x08PK\x03\x04"):
        with pytest.raises(ArchiveForPicture, match="ZIP"):
            decode(data, 32)


def test_a_file_that_was_never_written_says_so() -> None:
    with pytest.raises(UndecodablePicture, match="zeros"):
        decode(bytes(4000), 32)


@given(st.binary(min_size=1, max_size=600))
def test_any_beginning_has_an_answer(head: bytes) -> None:
    try:
        assert format_of(head) in {"JPEG", "PNG", "BMP", "TIFF", "WEBP"}
    except PictureError as error:
        assert error.reason


JPEG = encoded(plain("RGB", 1), "JPEG")
CHANGED = {
    "PNG, LF": (PICTURE.replace(b"\r\n", b"\n"), "line ends"),
    "PNG, CR LF": (PICTURE.replace(b"\n", b"\r\n"), "line ends"),
    "PNG, 7 bits": (bytes(byte & 127 for byte in PICTURE), "upper bit"),
    "PNG as UTF-8": (PICTURE.decode("latin-1").encode(), "encoded as UTF-8"),
    "JPEG as UTF-8": (JPEG.decode("latin-1").encode(), "encoded as UTF-8"),
    "PNG from UTF-8": (PICTURE.decode("utf-8", "replace").encode(), "decoded as UTF-8"),
    "JPEG from UTF-8": (JPEG.decode("utf-8", "replace").encode(), "decoded as UTF-8"),
    "an empty line before": (b"\r\n" + JPEG, "2 bytes before the JPEG"),
    "a byte order mark before": (b"\xef\xbb\xbf" + PICTURE, "3 bytes before the PNG"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_picture_that_was_taken_for_text_says_so(name: str) -> None:
    data, sentence = CHANGED[name]
    with pytest.raises(UndecodablePicture, match=sentence):
        decode(data, 32)


def test_words_that_begin_like_a_bmp_are_text() -> None:
    with pytest.raises(UnsupportedPicture, match=r"^text is not a supported picture type"):
        decode(b"BMI 22.5, blast count 3 %\n" * 30, 32)


@given(st.text(min_size=1, max_size=300))
def test_text_is_not_taken_for_a_picture(text: str) -> None:
    with pytest.raises(PictureError):
        decode(text.encode(), 32)
