"""JPEGs decoded at a smaller scale: nearly the pixels of the whole picture, in place, and the same refusals."""

from functools import partial
from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from examples import examples
from model.formats import jpeg
from model.formats.errors import PictureError
from model.image import decode
from model.resize import by_pillow

SIDES = st.integers(64, 700)
SQUARES = st.sampled_from([24, 32, 48, 64, 96, 128])
SUBSAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]


def drawn(width: int, height: int, seed: int) -> Image.Image:
    """Soft colours and the noise of a camera."""
    random = np.random.default_rng(seed)
    colours = Image.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


def whole(data: bytes, size: int) -> NDArray[np.uint8]:
    """The pixels by Pillow: decoded in full, then filtered."""
    with Image.open(BytesIO(data)) as picture:
        return by_pillow(np.asarray(picture.convert("RGB")), size)


def assert_close(data: bytes, size: int) -> None:
    pixels = decode(data, size)
    off = np.abs(pixels.astype(int) - whole(data, size))
    assert pixels.shape == (size, size, 3)
    assert off.mean() < 2 and off.max() < 16


def frame_of(data: bytes) -> jpeg.Frame:
    frames: list[jpeg.Frame] = []
    jpeg.read_layout(data, frames.append)
    return frames[0]


@given(width=SIDES, height=SIDES, size=SQUARES, quality=st.integers(60, 95), seed=st.integers(0, 2**32 - 1),
       subsampling=st.sampled_from(SUBSAMPLINGS))  # fmt: skip
@settings(max_examples=examples(150), deadline=None)
def test_any_size_and_subsampling(
    width: int, height: int, size: int, quality: int, seed: int, subsampling: str
) -> None:
    picture = drawn(width, height, seed)
    if subsampling == "Gray":
        data = encoded(picture.convert("L"), "JPEG", quality=quality)
    else:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality, colorsubsampling=subsampling)
    if max(width, height) <= 10 * min(width, height):
        assert_close(data, size)


@given(width=SIDES, height=SIDES, size=SQUARES, seed=st.integers(0, 2**32 - 1),
       mode=st.sampled_from(["L", "RGB", "CMYK"]), progressive=st.booleans())  # fmt: skip
@settings(max_examples=examples(60), deadline=None)
def test_any_mode_baseline_and_progressive(
    width: int, height: int, size: int, seed: int, mode: str, progressive: bool
) -> None:
    if max(width, height) <= 10 * min(width, height):
        assert_close(encoded(drawn(width, height, seed).convert(mode), "JPEG", progressive=progressive), size)


@pytest.mark.parametrize(
    ("side", "size", "scale"),
    [(250, 128, 8), (250, 96, 4), (250, 101, 8), (319, 128, 8), (320, 128, 4), (767, 128, 4), (768, 128, 2),
     (2047, 128, 2), (2048, 128, 1), (2048, 410, 4), (64, 224, 8)],
)  # fmt: skip
def test_the_scale_follows_from_the_size(side: int, size: int, scale: int) -> None:
    for width, height in ((side, side), (side, 2 * side), (2 * side, side)):
        assert jpeg.scale_for(frame_of(encoded(Image.new("RGB", (width, height)), "JPEG")), size) == scale


@pytest.mark.parametrize(("subsampling", "scale"), [("444", 4), ("420", 4), ("422", 8), ("440", 8), ("411", 8)])
def test_chroma_of_half_the_width_needs_a_larger_scale(subsampling: str, scale: int) -> None:
    data = simplejpeg.encode_jpeg(np.zeros((256, 256, 3), np.uint8), colorsubsampling=subsampling)
    assert jpeg.scale_for(frame_of(data), 100) == scale


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [513, 517, 1027])
def test_the_last_row_and_column_do_not_move_the_picture(side: int, orientation: int) -> None:
    """Scaled sides are rounded up: 517 px at 1/4 are 130 px, of which the last is mostly outside."""
    ramp = np.linspace(0, 255, side).round()
    stored = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp, (side, 1)).T, np.full((side, side), 90)], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(stored.astype(np.uint8))
    pixels = decode(encoded(picture, "JPEG", quality=95, subsampling=0, exif=exif), 64).astype(int)
    turned = Image.open(BytesIO(encoded(picture, "PNG", exif=exif)))
    expected = decode(encoded(turned, "PNG", exif=exif), 64)
    assert np.abs(pixels - expected).max() <= 2


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_one_colour_stays_that_colour(scale: int) -> None:
    for mode in ("L", "RGB", "CMYK"):
        data = encoded(Image.new("RGB", (250, 131), (128, 128, 128)).convert(mode), "JPEG", quality=100)
        pixels = jpeg.decode(data, jpeg.read_layout(data, lambda _: None), scale)
        assert pixels.shape[:2] == (-(-131 * scale // 8), -(-250 * scale // 8))
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) == 1


NOISY = drawn(160, 150, 0)
FILES = {
    "baseline": encoded(NOISY, "JPEG"),
    "4:4:4": encoded(NOISY, "JPEG", subsampling=0),
    "progressive": encoded(NOISY, "JPEG", progressive=True),
    "restart markers": encoded(NOISY, "JPEG", restart_marker_blocks=4),
    "cmyk": encoded(NOISY.convert("CMYK"), "JPEG"),
}


def refusal(data: bytes, size: int) -> str:
    try:
        decode(data, size)
    except PictureError as error:
        return str(error)
    return ""


def with_flips(data: bytes, at: int, bits: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


@pytest.mark.parametrize("name", FILES)
@given(where=st.floats(0, 1, exclude_max=True), length=st.integers(1, 600), bits=st.integers(1, 255))
@settings(max_examples=examples(60), deadline=None)
def test_no_scale_hides_damage(name: str, where: float, length: int, bits: int) -> None:
    """A flipped, lost, zeroed or missing part is refused at every scale with the same sentence, or at none."""
    data = FILES[name]
    at = int(where * len(data))
    for damaged in (
        with_flips(data, at, bits),
        data[:at] + data[at + length :],
        data[:at] + bytes(length) + data[at + length :],
        data[:at] + b"\xff\xd9",
    ):
        assert len(set(map(partial(refusal, damaged), (8, 24, 64, 160)))) == 1
