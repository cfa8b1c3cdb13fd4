"""Which way up: EXIF that cannot be read turns nothing and refuses nothing, in every format."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, png_chunk, png_file
from PIL import Image, ImageOps

from examples import examples
from model.formats.errors import UndecodablePicture
from model.image import decode

CELL = noise(32, 32)
FORMS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}


def turned(orientation: object, order: bytes = b"II", kind: int = 3) -> bytes:
    """An EXIF block of one tag."""
    byte_order = "<" if order == b"II" else ">"
    value = orientation if isinstance(orientation, bytes) else struct.pack(byte_order + "H2x", orientation)
    head = order + struct.pack(byte_order + "HIHHHI", 42, 8, 1, 0x0112, kind, 1)
    return head + value + bytes(4)


def with_exif(form: str, exif: bytes) -> bytes:
    return encoded(CELL, form, exif=b"Exif\0\0" + exif if form == "JPEG" else exif, **FORMS[form])


USELESS = {
    "garbage": b"\x00\x08\x00\x02\x01\x12\x00\x03",
    "nothing": b"",
    "zeros": bytes(64),
    "text": b"Orientation: rotate 90",
    "a cut off header": b"II*\0\x08",
    "a directory outside": b"II*\0\xff\xff\xff\x7f",
    "a circle": b"MM\0*\0\0\0\x08\0\0\0\0\0\x08",
    "an absurd count": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0",
    **{f"orientation {value}": turned(value) for value in (0, 9, 255, 65535)},
    "orientation as text": turned(b"6\0\0\0", kind=2),
    "orientation as a fraction": turned(b"\xff\xff\xff\x7f", kind=5),
    "orientation of an unknown kind": turned(6, kind=99),
    "big endian, cut": turned(6, b"MM")[:-9],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", USELESS)
def test_exif_without_an_orientation_turns_nothing(form: str, name: str) -> None:
    plain = decode(encoded(CELL, form, **FORMS[form]), 32)
    assert (decode(with_exif(form, USELESS[name]), 32) == plain).all()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(100), deadline=None)
@given(exif=st.binary(max_size=80), whole=st.booleans())
def test_no_exif_refuses_a_picture(form: str, exif: bytes, whole: bool) -> None:
    block = turned(6) + exif if whole else exif
    assert decode(with_exif(form, block), 32).shape == (32, 32, 3)


UPRIGHT = np.asarray(CELL)
QUARTER = np.rot90(UPRIGHT, -1)


@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_png_says_it_before_or_behind_its_pixels(order: bytes) -> None:
    exif = [(b"eXIf", turned(6, order))]
    assert (decode(png_file(UPRIGHT, before=exif), 32) == QUARTER).all()
    assert (decode(png_file(UPRIGHT, after=exif), 32) == QUARTER).all()
    assert (decode(png_file(UPRIGHT.astype(np.uint16) * 257, after=exif), 32) == QUARTER).all()


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_xmp_counts_where_exif_says_nothing() -> None:
    xmp = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    assert (decode(png_file(UPRIGHT, before=[xmp]), 32) == QUARTER).all()
    assert (decode(png_file(UPRIGHT, before=[xmp, (b"eXIf", turned(1))]), 32) == UPRIGHT).all()
    assert (decode(png_file(UPRIGHT, before=[xmp, (b"eXIf", USELESS["garbage"])]), 32) == UPRIGHT).all()
    assert (decode(encoded(CELL, "WEBP", lossless=True, xmp=XMP), 32) == QUARTER).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_exif_as_text_is_read_and_damage_in_it_passed_over(compressed: bool) -> None:
    for text, expected in ((turned(6).hex(), QUARTER), ("no hexadecimal", UPRIGHT), ("", UPRIGHT)):
        body = f"\nexif\n      {len(text)}\n{text}\n".encode()
        held = b"Raw profile type exif\0" + (b"\0" + zlib.compress(body) if compressed else body)
        assert (decode(png_file(UPRIGHT, before=[(b"zTXt" if compressed else b"tEXt", held)]), 32) == expected).all()


@pytest.mark.parametrize("name", [b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"prVt"])
def test_damage_in_a_chunk_that_makes_no_pixel_is_passed_over(name: bytes) -> None:
    for body in (turned(6), b"", b"Comment\0\0" + b"\xff" * 99):
        file = png_file(UPRIGHT, before=[(name, body)])
        damaged = file.replace(png_chunk(name, body), png_chunk(name, body)[:-4] + b"sum!")
        assert damaged != file
        assert (decode(damaged, 32) == UPRIGHT).all()


def test_a_text_that_unpacks_to_gigabytes_costs_nothing() -> None:
    packed = zlib.compress(bytes(30_000_000))
    for name, held in (
        (b"zTXt", b"Raw profile type exif\0\0" + packed),
        (b"zTXt", b"Comment\0\0" + packed),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
    ):
        assert (decode(png_file(UPRIGHT, before=[(name, held)]), 32) == UPRIGHT).all()


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"tRNS", b"sBIT", b"gAMA", b"ABCD"])
def test_damage_in_a_chunk_that_makes_pixels_is_not(name: bytes) -> None:
    before = [(b"sBIT", b"\x08\x08\x08"), (b"gAMA", b"\0\0\xb1\x8f"), (b"tRNS", bytes(6))]
    file = png_file(UPRIGHT, before=[*before, (b"ABCD", b"")] if name == b"ABCD" else before)
    at = file.index(name)
    size = int.from_bytes(file[at - 4 : at], "big")
    summed = at + 4 + size
    damaged = file[:summed] + bytes(byte ^ 1 for byte in file[summed : summed + 4]) + file[summed + 4 :]
    with pytest.raises(UndecodablePicture, match="PNG data"):
        decode(damaged, 32)


def test_a_png_without_its_end_is_cut_off() -> None:
    file = png_file(UPRIGHT, after=[(b"eXIf", turned(6))])
    for length in range(len(file) - 40, len(file)):
        with pytest.raises(UndecodablePicture, match="cut off"):
            decode(file[:length], 32)
    assert (decode(file + b"behind", 32) == QUARTER).all()


def test_a_jpeg_of_a_phone_is_turned() -> None:
    stored = decode(with_exif("JPEG", turned(1)), 32)
    assert (decode(with_exif("JPEG", turned(6)), 32) == np.rot90(stored, -1)).all()


def jpeg_with(*segments: bytes) -> bytes:
    """The cell as a JPEG with these APP1 segments."""
    plain = encoded(CELL, "JPEG", **FORMS["JPEG"])
    written = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment for segment in segments)
    return plain[:2] + written + plain[2:]


XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0" + XMP
JPEG_SEGMENTS = {
    "exif": ([b"Exif\0\0" + turned(6)], True),
    "exif in two segments": ([b"Exif\0\0" + turned(6)[:15], b"Exif\0\0" + turned(6)[15:]], True),
    "xmp": ([XMP_SEGMENT], True),
    "xmp beside exif that cannot be read": ([b"Exif\0\0" + bytes(64), XMP_SEGMENT], False),
    "exif before xmp": ([XMP_SEGMENT, b"Exif\0\0" + turned(1)], False),
    "another APP1": ([b"http://ns.adobe.com/xmp/extension/\0" + XMP], False),
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_a_jpeg_is_turned_by_its_segments_as_pillow_turns_it(name: str) -> None:
    segments, is_turned = JPEG_SEGMENTS[name]
    data = jpeg_with(*segments)
    upright = decode(jpeg_with(), 32)
    assert (decode(data, 32) == (np.rot90(upright, -1) if is_turned else upright)).all()
    with Image.open(BytesIO(data)) as picture:
        shown = ImageOps.exif_transpose(picture)
        assert (shown.tobytes() != picture.tobytes()) == is_turned


def test_metadata_behind_the_first_scan_of_a_jpeg_does_not_count() -> None:
    plain = encoded(CELL, "JPEG", progressive=True)
    second = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    segment = jpeg_with(b"Exif\0\0" + turned(6))[2 : 2 + 4 + 6 + len(turned(6))]
    assert (decode(plain[:second] + segment + plain[second:], 32) == decode(plain, 32)).all()
