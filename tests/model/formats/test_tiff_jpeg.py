"""JPEG streams inside TIFF: as strict as JPEG files, strip by strip and tile by tile."""

import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, tiff
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from test_jpeg import SIDE, cell
from tiff_files import Page, tiff_file

from examples import examples
from model.formats.errors import PictureError, UndecodablePicture, UnsupportedPicture
from model.formats.tiff import read
from model.image import decode


def streams(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each stream begins and ends."""
    tags = TiffImageFile(BytesIO(data)).tag_v2
    offsets, sizes = tags.get(324, tags.get(273)), tags.get(325, tags.get(279))
    yield from ((at, at + size) for at, size in zip(offsets, sizes, strict=True))


def tile(stream: bytes, side: int = 16, **others: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile, its tables in the stream."""
    return tiff([stream], 8, 3, 2, tile=side, compression=7, **others)


SMALL = Image.fromarray(np.asarray(cell())[:16, :16])
WHOLE = {
    "rgb": encoded(cell(), "TIFF", compression="jpeg"),
    "ycbcr": encoded(cell().convert("YCbCr"), "TIFF", compression="jpeg"),
    "grey": encoded(cell().convert("L"), "TIFF", compression="jpeg"),
    "cmyk": encoded(cell().convert("CMYK"), "TIFF", compression="jpeg"),
    "one tile": tile(encoded(SMALL, "JPEG", keep_rgb=True)),
    "one tile, progressive": tile(encoded(SMALL, "JPEG", keep_rgb=True, progressive=True)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_streams_are_read(name: str) -> None:
    side = 16 if "tile" in name else SIDE
    expected = {"grey": cell().convert("L").convert("RGB")}.get(name, SMALL if "tile" in name else cell())
    assert np.abs(decode(WHOLE[name], side).astype(int) - np.asarray(expected)).mean() < 16


@pytest.mark.parametrize("name", WHOLE)
def test_half_of_any_stream_with_an_end_marker_is_refused(name: str) -> None:
    for start, end in streams(WHOLE[name]):
        half = (WHOLE[name].rindex(b"\xff\xda", start, end) + end) // 2
        for filling in (b"\0", b"\x55", b"\xff"):
            damaged = WHOLE[name][:half] + filling * (end - half - 2) + b"\xff\xd9" + WHOLE[name][end:]
            with pytest.raises(UndecodablePicture, match="cut off|damaged"):
                decode(damaged, SIDE)
        marker_moved = WHOLE[name][:half] + b"\xff\xd9" + WHOLE[name][half + 2 :]
        with pytest.raises(UndecodablePicture):
            decode(marker_moved, SIDE)


@pytest.mark.parametrize("name", ["rgb", "grey"])
def test_streams_transferred_as_text_are_refused(name: str) -> None:
    for old, new in ((b"\n", b"\r"), (b"\r", b"\n")):
        data = bytearray(WHOLE[name])
        for start, end in streams(WHOLE[name]):
            data[start:end] = WHOLE[name][start:end].replace(old, new)
        with pytest.raises(PictureError):
            decode(bytes(data), SIDE)


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=examples(60), deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_damage_gives_pixels_or_a_picture_error(name: str, where: float, bits: int) -> None:
    data = bytearray(WHOLE[name])
    data[int(where * len(data))] ^= bits
    try:
        assert decode(bytes(data), 24).shape == (24, 24, 3)
    except PictureError as error:
        assert error.reason


def test_a_stream_of_another_size_is_refused() -> None:
    for side in (8, 24):
        other = SMALL.resize((side, side))
        with pytest.raises(UndecodablePicture, match=f"{side} x {side} pixels instead of 16 x 16"):
            decode(tile(encoded(other, "JPEG", keep_rgb=True)), 16)


def test_kinds_of_jpeg_that_are_not_read_are_named() -> None:
    stream = encoded(SMALL, "JPEG", keep_rgb=True)
    frame = stream.index(b"\xff\xc0")
    arithmetic = stream[: frame + 1] + b"\xc9" + stream[frame + 2 :]
    with pytest.raises(UnsupportedPicture, match="arithmetic"):
        decode(tile(arithmetic), 16)
    planes = tiff([stream] * 3, 8, 3, 6, tile=16, compression=7, planes=2)
    with pytest.raises(UnsupportedPicture, match="separate planes"):
        decode(planes, 16)


def test_streams_that_lie_upon_each_other_are_refused() -> None:
    stream = encoded(SMALL.resize((16, 1)), "JPEG", keep_rgb=True)
    strips = tiff([stream] * 16, 8, 3, 2, rows=1, compression=7)
    assert decode(strips, 16).shape == (16, 16, 3)
    one = struct.pack("<16H", *range(1024, 1024 + 16 * len(stream), len(stream)))
    with pytest.raises(UndecodablePicture, match="overlap|instead of|damaged"):
        decode(strips.replace(one, struct.pack("<16H", *[1024] * 16))[: 1024 + 2 * len(stream)], 16)


def assert_libtiffs_pixels(data: bytes) -> None:
    with Image.open(BytesIO(data)) as picture:
        assert np.array_equal(read(data, 10**6)[0].convert("RGB"), picture.convert("RGB"))


@given(
    width=st.integers(17, 90), height=st.integers(17, 90), quality=st.integers(30, 98), seed=st.integers(0, 99),
    mode=st.sampled_from(["RGB", "YCbCr", "L", "CMYK"]), rows=st.sampled_from([8, 16, 32, 1000]),
)  # fmt: skip
@settings(max_examples=examples(120), deadline=None)
def test_strips_have_libtiffs_pixels(width: int, height: int, quality: int, seed: int, mode: str, rows: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height)).convert(mode)
    data = encoded(picture, "TIFF", compression="jpeg", quality=quality, strip_size=rows * width * 3)
    assert_libtiffs_pixels(data)


JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"


def alone(stream: bytes, segment: bytes = b"") -> bytes:
    """A JPEG with no segment that says what its colours are, but this one."""
    return b"\xff\xd8" + segment + stream[stream.index(b"\xff\xdb") :]


@given(quality=st.integers(30, 98), stored=st.sampled_from(["RGB", "YCbCr"]), declared=st.sampled_from([2, 6]),
       segment=st.sampled_from([b"", JFIF, ADOBE_RGB]), seed=st.integers(0, 99))  # fmt: skip
@settings(max_examples=examples(120), deadline=None)
def test_tiles_have_libtiffs_pixels(quality: int, stored: str, declared: int, segment: bytes, seed: int) -> None:
    """Also where the colours that the TIFF declares are not those that libjpeg takes the stream for."""
    drawn = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8))
    stream = encoded(drawn, "JPEG", quality=quality, subsampling=0, keep_rgb=stored == "RGB")
    tags = {256: 16, 257: 16, 258: (8, 8, 8), 259: 7, 262: declared, 277: 3, 322: 16, 323: 16, 530: (1, 1)}
    assert_libtiffs_pixels(tiff_file(Page(tags, [alone(stream, segment)])))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_streams_for_another_number_of_tiles_are_refused(count: int) -> None:
    stream = alone(encoded(SMALL, "JPEG", keep_rgb=True))
    tags = {256: 32, 257: 32, 258: (8, 8, 8), 259: 7, 262: 2, 277: 3, 322: 16, 323: 16}
    with pytest.raises(PictureError):
        decode(tiff_file(Page(tags, [stream] * count)), 16)


@given(width=st.integers(8, 60), height=st.integers(8, 60), seed=st.integers(0, 99))
@settings(max_examples=examples(60), deadline=None)
def test_tiles_at_the_edges_are_cut(width: int, height: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    stored = [
        encoded(Image.fromarray(drawn[top : top + 16, left : left + 16]), "JPEG", keep_rgb=True)
        for top in range(0, height, 16)
        for left in range(0, width, 16)
    ]
    tags = {256: width, 257: height, 258: (8, 8, 8), 259: 7, 262: 2, 277: 3, 322: 16, 323: 16}
    if max(width, height) <= 10 * min(width, height):
        assert_libtiffs_pixels(tiff_file(Page(tags, list(map(alone, stored)))))
