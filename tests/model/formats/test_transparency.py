"""Transparent pictures: white shows through, an unused alpha channel is none, and nothing to see is refused."""

import struct

import numpy as np
import pytest
from pictures import COLOUR, SIDE, encoded, png_file
from PIL import Image
from transparent_pictures import NOTHING_TO_SEE, layer

from model.formats.errors import UnsupportedPicture
from model.image import decode


def bmp(pixels: np.ndarray, header: int, masks: tuple[int, ...] = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)) -> bytes:
    """A 32-bit BMP of the header's size: 40 (plain), 56 (version 3), 108 (version 4) or 124 (version 5)."""
    body = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    method = 0 if header == 40 else 3
    info = struct.pack("<IiiHHIIiiII", header, SIDE, SIDE, 1, 32, method, len(body), 2835, 2835, 0, 0)
    info += struct.pack("<4I", *masks) if header > 40 else b""
    info = info.ljust(header, b"\0")
    if header >= 108:
        info = info[:56] + b"BGRs" + info[60:]  # sRGB
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


@pytest.mark.parametrize("header", [40, 56, 108, 124])
def test_an_alpha_channel_of_zeros_in_a_bmp_is_none(header: int) -> None:
    assert (decode(bmp(layer(0), header), SIDE) == COLOUR).all()
    assert (decode(bmp(layer(255), header), SIDE) == COLOUR).all()


def test_a_used_alpha_channel_in_a_bmp_counts() -> None:
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[8:] = 255
    shown = decode(bmp(layer(alpha), 108), SIDE)
    assert (shown[:8] == 255).all() and (shown[8:] == COLOUR).all()
    alpha[:] = 0
    alpha[0, 0] = 255
    with pytest.raises(UnsupportedPicture, match="completely transparent"):
        decode(bmp(layer(alpha), 108), SIDE)


@pytest.mark.parametrize("name", NOTHING_TO_SEE)
def test_a_picture_that_is_transparent_everywhere_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedPicture, match="completely transparent picture; save it without its alpha channel"):
        decode(NOTHING_TO_SEE[name], SIDE)


def test_a_cell_that_was_cut_out_is_seen_over_white() -> None:
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[6:9, 6:9] = 255
    for file in (encoded(Image.fromarray(layer(alpha)), "PNG"), bmp(layer(alpha), 124), png_file(layer(alpha))):
        shown = decode(file, SIDE)
        assert (shown[6:9, 6:9] == COLOUR).all() and (shown[0] == 255).all()


@pytest.mark.parametrize("lowest", [0, 254, 255])
def test_alpha_counts_unless_it_is_255_everywhere(lowest: int) -> None:
    drawn = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 4), np.uint8)
    drawn[..., 3] = 255
    drawn[3, 4, 3] = lowest
    over_white = Image.alpha_composite(Image.new("RGBA", (SIDE, SIDE), "white"), Image.fromarray(drawn))
    assert (decode(encoded(Image.fromarray(drawn), "PNG"), SIDE) == np.asarray(over_white.convert("RGB"))).all()


def test_a_bmp_that_is_not_read_is_named() -> None:
    with pytest.raises(UnsupportedPicture, match="unsupported layout"):
        decode(bmp(layer(255), 56, (0x3FF00000, 0xFFC00, 0x3FF, 0)), SIDE)
