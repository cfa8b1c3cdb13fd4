"""The one decode-and-resize: every kind of picture comes out in the colours a person sees, or not at all."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    COLOUR,
    GREY_16,
    RGB_16,
    SEEN,
    SIDE,
    assert_same_but_for_rounding,
    encoded,
    noise,
    plain,
    png,
    tiff,
)
from PIL import Image

from examples import examples
from model.image import PictureError, PictureTooLarge, UndecodablePicture, UnsupportedPicture, decode
from model.resize import by_pillow


@pytest.mark.parametrize("name", SEEN)
def test_every_kind_comes_out_in_the_colour_a_person_sees(name: str) -> None:
    data, colour, tolerance = SEEN[name]
    pixels = decode(data, 32)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance


PAGES = [plain("RGB", "red"), plain("RGB", "blue")]
PAGED = {"save_all": True, "append_images": PAGES[1:]}
REFUSED = {
    "nothing": (b"", UndecodablePicture, "empty"),
    "text": (b"%PDF-1.7 not a picture", UnsupportedPicture, "JPEG, PNG, BMP, TIFF or WEBP"),
    "gif": (encoded(plain("P", 1), "GIF"), UnsupportedPicture, "is not a supported picture type"),
    "jpeg 2000": (encoded(plain("RGB", COLOUR), "JPEG2000"), UnsupportedPicture, "is not a supported picture type"),
    "only the magic": (b"\x89PNG\r\n\x1a\n", UndecodablePicture, "PNG data is damaged"),
    "png animation": (encoded(PAGES[0], "PNG", **PAGED), UnsupportedPicture, "animation"),
    "webp animation": (encoded(PAGES[0], "WEBP", **PAGED), UnsupportedPicture, "animation"),
    "tiff pages": (encoded(PAGES[0], "TIFF", **PAGED), UnsupportedPicture, "pages"),
    "tiff float": (encoded(plain("F", 0.5), "TIFF"), UnsupportedPicture, "floating-point"),
    "tiff signed": (tiff([GREY_16], 16, 1, 1, sample_format=2), UnsupportedPicture, "signed"),
    "tiff 32-bit": (tiff([GREY_16 * 2], 32, 1, 1), UnsupportedPicture, "32-bit"),
    "tiff float colours": (tiff([RGB_16 * 2], 32, 3, 2, sample_format=3), UnsupportedPicture, "floating-point"),
    "tiff cielab": (encoded(plain("LAB", COLOUR), "TIFF"), UnsupportedPicture, "LAB"),
    "png transparent": (encoded(plain("RGBA", (*COLOUR, 0)), "PNG"), UnsupportedPicture, "completely transparent"),
    "tiff half its strips": (tiff([b"\xc8" * 128], 8, 1, 1, rows=8), UndecodablePicture, "do not cover"),
    "bmp run lengths": (
        b"BM" + struct.pack("<IHHI", 62, 0, 0, 62) + struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, 0, 0, 0, 2, 0)
        + bytes(8) + b"\x10\x01" * 16 + b"\0\1",
        UnsupportedPicture,
        "run-length",
    ),
    "a line": (encoded(plain("RGB", COLOUR, (10_000, 1)), "PNG"), UndecodablePicture, "at least 8"),
    "a ribbon": (encoded(plain("RGB", COLOUR, (1000, 40)), "PNG"), UndecodablePicture, "10 times"),
    "a dot": (encoded(plain("RGB", COLOUR, (1, 1)), "BMP"), UndecodablePicture, "at least 8"),
    "no width": (png(8, 2, b"").replace(struct.pack(">I", SIDE), bytes(4), 1), UndecodablePicture, "0 x 16"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_honestly_is_refused_in_a_sentence(name: str) -> None:
    data, error, sentence = REFUSED[name]
    with pytest.raises(error, match=sentence) as caught:
        decode(data, 32)
    assert caught.value.reason == str(caught.value)


def test_a_pyramid_is_one_picture() -> None:
    full, half = plain("RGB", COLOUR, (64, 64)), plain("RGB", "blue", (32, 32))
    half.encoderinfo = {"tiffinfo": {254: 1}}  # NewSubfileType 1: a reduced-resolution version of another page
    data = encoded(full, "TIFF", save_all=True, append_images=[half])
    assert (decode(data, 32) == COLOUR).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_turned_camera_gives_an_upright_cell(form: str, orientation: int) -> None:
    quadrants = np.zeros((48, 32, 3), np.uint8)  # what a person sees: red, green over blue, black
    quadrants[:24, :16, 0] = quadrants[:24, 16:, 1] = quadrants[24:, :16, 2] = 255
    # EXIF 2.32 section 4.6.4: where the stored row 0 and column 0 lie in the picture that a person sees
    stored = {
        1: quadrants, 2: quadrants[:, ::-1], 3: quadrants[::-1, ::-1], 4: quadrants[::-1],
        5: quadrants.transpose(1, 0, 2), 6: quadrants.transpose(1, 0, 2)[::-1],
        7: quadrants.transpose(1, 0, 2)[::-1, ::-1], 8: quadrants.transpose(1, 0, 2)[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif)
    corners = decode(data, 32)[[4, 4, 28, 28], [4, 28, 4, 28]].astype(int)
    assert np.abs(corners - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]).max() < 12


def test_the_plain_case_is_what_pillow_makes_of_it() -> None:
    data = encoded(noise(250, 250), "JPEG", quality=90)
    with Image.open(BytesIO(data)) as picture:
        unresized = np.asarray(picture.convert("RGB"))
    for same in (data, bytearray(data), memoryview(data)):
        assert (decode(same, 250) == unresized).all()
        assert_same_but_for_rounding(decode(same, 128), by_pillow(unresized, 128))


@pytest.mark.parametrize(
    "extra", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_rows": 2}]
)
def test_every_layout_of_a_jpeg_has_pillows_pixels(extra: dict[str, int]) -> None:
    data = encoded(noise(83, 61), "JPEG", quality=80, **extra)
    with Image.open(BytesIO(data)) as picture:
        assert_same_but_for_rounding(decode(data, 40), by_pillow(np.asarray(picture), 40))


def test_the_array_is_the_callers_own() -> None:
    data = encoded(plain("RGB", COLOUR), "PNG")
    first = decode(data, SIDE)
    assert first.dtype == np.uint8 and first.flags.c_contiguous and first.flags.writeable
    first[:] = 0
    assert (decode(data, SIDE) == COLOUR).all()


def test_many_threads_see_what_one_sees() -> None:
    files = [data for data, _, _ in SEEN.values()] * 4
    alone = [decode(data, 32) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, 32), files))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_too_many_pixels_are_refused_by_the_header_alone(form: str) -> None:
    data = encoded(plain("RGB", COLOUR, (100, 60)), form)
    assert decode(data, 32, max_pixels=6000).shape == (32, 32, 3)
    with pytest.raises(PictureTooLarge, match="100 x 60"):
        decode(data, 32, max_pixels=5999)
    if form in ("JPEG", "PNG", "WEBP"):  # nothing but the header is there, and it suffices
        with pytest.raises(PictureTooLarge, match="100 x 60"):
            decode(data[: len(data) - 60 if form == "JPEG" else 60], 32, max_pixels=5999)


def test_bombs_do_not_go_off() -> None:
    vast = struct.pack(">II", 60_000, 60_000)
    claimed = png(8, 2, bytes(COLOUR) * SIDE).replace(struct.pack(">II", SIDE, SIDE), vast, 1)
    header = claimed[12:29]
    claimed = claimed.replace(claimed[29:33], struct.pack(">I", zlib.crc32(header)), 1)
    canvas = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6
    tile = tiff([zlib.compress(bytes(3 * 4096**2))], 8, 3, 2, tile=4096, compression=8)
    for bomb in (claimed, canvas, tile):
        with pytest.raises(PictureTooLarge):
            decode(bomb, 32)


DAMAGED = {
    "jpeg": encoded(noise(), "JPEG"),
    "jpeg progressive": encoded(noise(), "JPEG", progressive=True),
    "png": encoded(noise(), "PNG"),
    "png palette": encoded(noise().quantize(16), "PNG"),
    "png 16-bit": encoded(Image.fromarray(np.asarray(noise().convert("L")).astype(np.uint16) * 257), "PNG"),
    "bmp": encoded(noise(), "BMP"),
    "tiff": encoded(noise(), "TIFF"),
    "tiff lzw": encoded(noise(), "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(noise(), "TIFF", compression="tiff_adobe_deflate"),
    "tiff tile": tiff([zlib.compress(noise(SIDE, SIDE).tobytes())], 8, 3, 2, tile=SIDE, compression=8),
    "tiff jpeg": encoded(noise(), "TIFF", compression="jpeg"),
    "webp": encoded(noise(), "WEBP"),
    "webp lossless": encoded(noise(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", DAMAGED)
@settings(max_examples=examples(120), deadline=None)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_cut_off_picture_is_refused_or_whole(name: str, where: float) -> None:
    data = DAMAGED[name]
    try:
        pixels = decode(data[: int(where * len(data))], 24)
    except PictureError:
        return
    assert (pixels == decode(data, 24)).all()


@pytest.mark.parametrize("name", DAMAGED)
@settings(max_examples=examples(120), deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6))
def test_damage_gives_pixels_or_a_picture_error_and_nothing_else(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(DAMAGED[name])
    for where, bits in flips:
        # as many flips in the first 100 bytes, where the headers are, as in all the rest
        at = int(where * 200) if where < 0.5 else int(where * len(data))
        data[at] ^= bits
    try:
        assert decode(data, 24).shape == (24, 24, 3)
    except PictureError as error:
        assert error.reason


@given(st.binary(max_size=64))
def test_any_bytes_give_pixels_or_a_picture_error(data: bytes) -> None:
    for magic in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF1234WEBPVP8X"):
        with pytest.raises(PictureError):
            decode(magic + data, 24)
