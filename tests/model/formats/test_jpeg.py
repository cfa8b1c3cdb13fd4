"""JPEGs: whole ones have Pillow's pixels, whatever lies behind their end; cut off and damaged ones are refused."""

import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from checkout import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from examples import examples
from model.formats.errors import PictureError, UndecodablePicture, UnsupportedPicture
from model.image import decode

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SIDE = 160


def cell() -> Image.Image:
    """A disc on a ground, with the noise of a camera: its scan is more than 4,096 bytes long."""
    random = np.random.default_rng(3)
    across = np.hypot(*np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j])[..., None]
    pixels = np.where(across < 0.6, [110, 60, 140], [225, 205, 215]) + random.normal(0, 16, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(cell(), "JPEG", exif=exif)


WHOLE = {
    "plain": encoded(cell(), "JPEG"),
    "4:4:4": encoded(cell(), "JPEG", subsampling=0),
    "4:1:1": simplejpeg.encode_jpeg(np.asarray(cell()), colorsubsampling="411"),
    "4:4:0": simplejpeg.encode_jpeg(np.asarray(cell()), colorsubsampling="440"),
    "optimized": encoded(cell(), "JPEG", optimize=True),
    "progressive": encoded(cell(), "JPEG", progressive=True),
    "restart markers": encoded(cell(), "JPEG", restart_marker_rows=1),
    "progressive, restart markers": encoded(cell(), "JPEG", progressive=True, restart_marker_blocks=5),
    "grey": encoded(cell().convert("L"), "JPEG"),
    "rgb": encoded(cell(), "JPEG", keep_rgb=True),
    "cmyk": encoded(cell().convert("CMYK"), "JPEG"),
    "ycck": simplejpeg.encode_jpeg(np.ascontiguousarray(cell().convert("CMYK")), 75, "CMYK", "420"),
    "turned": turned(),
}


def markers(data: bytes) -> list[tuple[int, int, int]]:
    """Marker, where it begins, and where its parameters end, by an independent walk over every byte."""
    found, at = [], 2
    while data[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], at, end))
        if data[at + 1] == 0xDA:
            while data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        at = end
    return [*found, (0xD9, at, at + 2)]


def last_scan(data: bytes) -> int:
    """Where the entropy-coded data of the last scan begins."""
    return max(end for marker, _, end in markers(data) if marker == 0xDA)


def with_frame(data: bytes, change: Callable[[bytearray, int], None]) -> bytes:
    """A copy whose frame header has been changed; it begins at the offset that `change` is given."""
    copy = bytearray(data)
    change(copy, next(start for marker, start, _ in markers(data) if 0xC0 <= marker <= 0xC2))
    return bytes(copy)


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return decode(data, SIDE)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_jpeg_has_pillows_pixels(name: str) -> None:
    with Image.open(BytesIO(WHOLE[name])) as picture:
        expected = np.asarray(picture.convert("RGB"))
    assert (pixels_of(WHOLE[name]) == (np.rot90(expected, -1) if name == "turned" else expected)).all()


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "padding", [b"", bytes(4000), bytes(200_000), b"\x55" * 4000, b"\xff" * 4000, b"\xff\0" * 2000]
)
def test_half_a_scan_with_an_end_marker_is_refused(name: str, padding: bytes) -> None:
    data = WHOLE[name]
    half = (last_scan(data) + len(data)) // 2
    with pytest.raises(UndecodablePicture, match="cut off|damaged"):
        decode(data[:half] + padding + EOI, SIDE)


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=examples(60), deadline=None)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_cut_with_an_end_marker_is_refused(name: str, where: float) -> None:
    """A cut within the last bytes takes nothing but padding and the end marker itself."""
    data = WHOLE[name]
    with pytest.raises(PictureError):
        decode(data[: int(where * (len(data) - 4))] + EOI, SIDE)


@pytest.mark.parametrize("name", ["progressive", "progressive, restart markers"])
def test_missing_scans_of_a_progressive_jpeg_are_refused(name: str) -> None:
    data = WHOLE[name]
    starts = [start for marker, start, _ in markers(data) if marker == 0xDA]
    assert len(starts) > 5
    for start, end in zip(starts, [*starts[1:], len(data) - 2], strict=True):
        for cut in (data[:start] + EOI, data[:start] + data[end:], data[:end] + EOI):
            if cut != data:
                with pytest.raises(UndecodablePicture):
                    decode(cut, SIDE)


def test_a_component_without_a_scan_is_refused() -> None:
    def two_more(copy: bytearray, start: int) -> None:
        copy[start + 2 : start + 4] = (17).to_bytes(2, "big")
        copy[start + 9] = 3
        copy[start + 13 : start + 13] = b"\2\x11\0\3\x11\0"

    with pytest.raises(UndecodablePicture, match="scans are missing"):
        decode(with_frame(WHOLE["grey"], two_more), SIDE)


TRAILERS = {
    "zeros": bytes(5000),
    "line end": b"\r\n",
    "base64 padding": b"==\n",
    "mp4": struct.pack(">I4s4sI", 24, b"ftyp", b"mp42", 0) + bytes(range(256)) * 300,
    "another jpeg": WHOLE["progressive"],
    "half a jpeg": WHOLE["plain"][:3000],
    "what looks like scans": b"\xff\xda" * 500,
    "no end": b"\xff\xff\xff\xd8\xff\xe0",
}


@pytest.mark.parametrize("name", ["plain", "progressive", "restart markers", "cmyk"])
@pytest.mark.parametrize("trailer", TRAILERS)
def test_what_lies_behind_the_end_changes_nothing(name: str, trailer: str) -> None:
    data = WHOLE[name]
    assert (pixels_of(data + TRAILERS[trailer]) == pixels_of(data)).all()
    with pytest.raises(UndecodablePicture):
        decode(data[:-500] + TRAILERS[trailer], SIDE)


def test_a_preview_inside_the_metadata_is_not_the_end() -> None:
    data = WHOLE["plain"]
    preview = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 2000) + b"Exif\0\0" + WHOLE["plain"][:1000] + EOI * 500
    assert (pixels_of(SOI + preview + data[2:]) == pixels_of(data)).all()
    with pytest.raises(UndecodablePicture, match="cut off"):
        decode(SOI + preview + data[2:-2], SIDE)


def test_fill_bytes_and_restart_markers_at_the_end_are_no_damage() -> None:
    data = WHOLE["plain"]
    for spelled in (data[:-2] + b"\xff" * 100 + EOI, SOI + b"\xff" * 9 + data[2:], data[:-2] + b"\xff\xd0" + EOI):
        assert (pixels_of(spelled) == pixels_of(data)).all()


def named(marker: int = 0xC0, precision: int = 8, height: int = SIDE) -> bytes:
    def change(copy: bytearray, start: int) -> None:
        copy[start + 1], copy[start + 4] = marker, precision
        copy[start + 5 : start + 7] = height.to_bytes(2, "big")

    return with_frame(WHOLE["plain"], change)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (named(precision=12), "12-bit JPEG"),
        (named(marker=0xC1, precision=12), "12-bit JPEG"),
        (named(marker=0xC3), "lossless JPEG"),
        (named(marker=0xC3, precision=16), "lossless JPEG"),
        (named(marker=0xC5), "hierarchical"),
        (named(marker=0xC9), "arithmetic-coded"),
        (named(marker=0xCA), "arithmetic-coded"),
        (named(marker=0xF7), "JPEG-LS"),
        (named(height=0), "DNL"),
    ],
)
def test_a_kind_of_jpeg_that_is_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedPicture, match=name):
        decode(data, SIDE)


def test_unusual_subsampling_is_named() -> None:
    def four_by_two(copy: bytearray, start: int) -> None:
        copy[start + 11] = 0x42

    with pytest.raises(UnsupportedPicture, match="4x2, 1x1, 1x1"):
        decode(with_frame(WHOLE["plain"], four_by_two), SIDE)


def test_a_height_behind_the_scan_must_be_the_same() -> None:
    data = WHOLE["plain"]
    for height, same in ((SIDE, True), (SIDE // 2, False)):
        lines = data[:-2] + b"\xff\xdc\0\4" + height.to_bytes(2, "big") + EOI
        if same:
            assert (pixels_of(lines) == pixels_of(data)).all()
        else:
            with pytest.raises(UndecodablePicture, match="heights"):
                decode(lines, SIDE)


def test_header_oddities_on_which_no_pixel_depends_are_passed_over() -> None:
    data = WHOLE["plain"]
    spectral = last_scan(data) - 3
    for odd in (data.replace(b"JFIF\0\1", b"JFIF\0\2", 1), data[:spectral] + bytes(3) + data[spectral + 3 :]):
        with pytest.raises(ValueError, match="JFIF|SOS"):
            simplejpeg.decode_jpeg(odd, "RGB")
        assert (pixels_of(odd) == pixels_of(data)).all()


def test_endless_scans_and_segments_are_refused() -> None:
    data = WHOLE["progressive"]
    scan = data[max(start for marker, start, _ in markers(data) if marker == 0xDA) : -2]
    with pytest.raises(UndecodablePicture, match="scans"):
        decode(data[:-2] + scan * 100 + EOI, SIDE)
    with pytest.raises(UndecodablePicture, match="segments"):
        decode(SOI + b"\xff\xfe\0\2" * 5000 + data[2:], SIDE)
    with pytest.raises(UndecodablePicture, match="cut off"):
        decode(SOI + b"\xff" * 10_000_000, SIDE)


def test_damaged_restart_markers_are_noticed() -> None:
    data = WHOLE["restart markers"]
    head = last_scan(data)
    found = [at for at in range(head, len(data) - 2) if data[at] == 0xFF and 0xD0 <= data[at + 1] < 0xD8]
    assert len(found) > 4
    first, second = found[1], found[2]
    for odd in (
        data[:first] + data[second:],  # one interval is lost
        data[:first] + data[first + 2 :],  # a marker is lost
        data[: first + 1] + data[second + 1 : second + 2] + data[first + 2 :],  # out of order
    ):
        with pytest.raises(UndecodablePicture):
            decode(odd, SIDE)


HANDED = SHARED / "cases" / "pictures"


SEQUENTIAL = [name for name in WHOLE if not name.startswith("progressive")]


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("where", [0.1, 0.35, 0.6, 0.85])
@pytest.mark.parametrize("size", [64, 512])
def test_a_hole_of_zeros_in_a_scan_is_refused(name: str, where: float, size: int) -> None:
    data = WHOLE[name]
    start, end = last_scan(data), len(data) - 2
    at = start + round(where * (end - start))
    with pytest.raises(UndecodablePicture):
        decode(data[:at] + bytes(size) + data[at + size :], SIDE)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_picture_of_one_colour_is_no_hole(mode: str, optimize: bool) -> None:
    """With tables of its own it is little but zeros."""
    blank = encoded(Image.new(mode, (640, 640), 0), "JPEG", optimize=optimize, subsampling=0)
    half = cell().resize((640, 640)).convert(mode)
    half.paste(Image.new(mode, (640, 400), 0))
    assert decode(blank, 64).std() == 0
    decode(encoded(half, "JPEG", optimize=optimize), 64)


@pytest.mark.skipif(not HANDED.is_dir(), reason="no handed cases: the folder ../shared/cases/pictures is not there")
def test_the_handed_cases() -> None:
    base = (HANDED / "base.jpg").read_bytes()
    assert (decode((HANDED / "motion_photo.jpg").read_bytes(), SIDE) == decode(base, SIDE)).all()
    for name in ("halfcut_eoi.jpg", "halfcut_pad_eoi.jpg"):
        with pytest.raises(UndecodablePicture):
            decode((HANDED / name).read_bytes(), SIDE)
    with pytest.raises(UnsupportedPicture, match="12-bit"):
        decode((HANDED / "jpeg12.jpg").read_bytes(), SIDE)
