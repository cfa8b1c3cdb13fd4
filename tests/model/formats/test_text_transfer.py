"""Pictures that were transferred as text: their line ends or their character encoding were changed."""

from collections.abc import Callable

import pytest
from pictures import encoded
from PIL import Image
from test_jpeg import SIDE, WHOLE, cell, last_scan

from model.formats.errors import PictureError, UndecodablePicture
from model.image import decode


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(("old", "new"), [(b"\n", b"\r\n"), (b"\r", b"\n"), (b"\n", b"\r"), (b"\r", b""), (b"\n", b"")])
def test_a_transfer_as_text_is_noticed(name: str, old: bytes, new: bytes) -> None:
    data = WHOLE[name]
    head = last_scan(data)  # the header is left whole, so that the scan alone can tell
    for sent in (data.replace(old, new), data[:head] + data[head:].replace(old, new)):
        with pytest.raises(UndecodablePicture, match="cut off|damaged"):
            decode(sent, SIDE)


def test_flat_pictures_have_few_byte_values_and_are_no_text() -> None:
    flat = encoded(Image.new("RGB", (3000, 3000), (201, 100, 50)), "JPEG")
    assert len(flat) > 20_000 and len(set(flat[last_scan(flat) :])) < 100
    assert decode(flat, 32).shape == (32, 32, 3)


AS_TEXT: dict[str, Callable[[bytes], bytes]] = {
    "latin-1 to utf-8": lambda data: data.decode("latin-1").encode(),
    "windows-1252 to utf-8": lambda data: data.decode("cp1252", "replace").encode(),
    "what is no utf-8 replaced": lambda data: data.decode("utf-8", "replace").encode(),
    "what is no ascii replaced": lambda data: data.decode("ascii", "replace").encode("ascii", "replace"),
    "7 bits": lambda data: bytes(byte & 127 for byte in data),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("change", AS_TEXT)
def test_a_picture_in_another_character_encoding_is_named(form: str, change: str) -> None:
    with pytest.raises(PictureError, match="transfer in text mode"):
        decode(AS_TEXT[change](encoded(cell(), form)), SIDE)


def test_a_png_with_other_line_ends_is_named() -> None:
    data = encoded(cell(), "PNG")
    for changed in (data.replace(b"\n", b"\r\n"), data.replace(b"\r\n", b"\n"), data.replace(b"\r", b"\n")):
        with pytest.raises(PictureError, match="transfer in text mode"):
            decode(changed, SIDE)


@pytest.mark.parametrize("before", [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf"])
def test_bytes_before_the_picture_are_named(before: bytes) -> None:
    with pytest.raises(PictureError, match="bytes before the JPEG"):
        decode(before + WHOLE["plain"], SIDE)
