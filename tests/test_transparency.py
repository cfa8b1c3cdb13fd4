"""Transparent pictures: white shows through, an unused alpha channel is none, and nothing to see is refused."""

import struct

import numpy as np
import pytest
from pictures import COLOUR, SIDE, encoded, plain, png, png_file
from PIL import Image
from tiff_files import page, tiff_file

from model.formats.errors import UnsupportedPicture
from model.image import decode

CELL = np.full((SIDE, SIDE, 3), COLOUR, np.uint8)


def layer(alpha: int | np.ndarray) -> np.ndarray:
    return np.concatenate([CELL, np.broadcast_to(np.uint8(alpha), (SIDE, SIDE))[:, :, None]], axis=2)


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
    with pytest.raises(UnsupportedPicture, match="transparent everywhere"):
        decode(bmp(layer(alpha), 108), SIDE)


HIDDEN = plain("RGBA", (*COLOUR, 0))
NOTHING_TO_SEE = {
    "png": encoded(HIDDEN, "PNG"),
    "png grey": encoded(plain("LA", (90, 0)), "PNG"),
    "png 16-bit": png_file(layer(0).astype(np.uint16) * 257),
    "png 16-bit grey": png_file(np.stack([CELL[..., 0], CELL[..., 0] * 0], axis=2).astype(np.uint16) * 257),
    "png palette": png(8, 3, b"\1" * SIDE, b"\xff\0", bytes((1, 2, 3, *COLOUR))),
    "png palette, all": png(8, 3, b"\1" * SIDE, b"\0\0", bytes((1, 2, 3, *COLOUR))),
    "png palette, nearly": png(8, 3, b"\1" * SIDE, b"\2\2", bytes((1, 2, 3, *COLOUR))),
    "png colour key": png(8, 2, bytes(COLOUR) * SIDE, struct.pack(">3H", *COLOUR)),
    "png grey key": png(8, 0, b"\x09" * SIDE, b"\0\x09"),
    "png 16-bit key": png(16, 2, b"\xc8\x12" * 3 * SIDE, b"\xc8\x12" * 3),
    "webp": encoded(HIDDEN, "WEBP", lossless=True, exact=True),
    "webp lossy": encoded(HIDDEN, "WEBP"),
    "tiff": encoded(HIDDEN, "TIFF"),
    "tiff premultiplied": tiff_file(page(layer(0), tags={338: (1,)})),
    "tiff 16-bit": tiff_file(page(layer(0).astype(np.uint16) * 257, tags={338: (2,)})),
    "tiff grey": tiff_file(page(layer(0)[..., 2:], 1, tags={338: (2,)})),
    "one grey level of opacity": encoded(plain("RGBA", (*COLOUR, 1)), "PNG"),
}


@pytest.mark.parametrize("name", NOTHING_TO_SEE)
def test_a_picture_that_is_transparent_everywhere_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedPicture, match="transparent everywhere; save it without its alpha channel"):
        decode(NOTHING_TO_SEE[name], SIDE)


def test_a_cell_that_was_cut_out_is_seen_over_white() -> None:
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[6:9, 6:9] = 255
    for file in (encoded(Image.fromarray(layer(alpha)), "PNG"), bmp(layer(alpha), 124), png_file(layer(alpha))):
        shown = decode(file, SIDE)
        assert (shown[6:9, 6:9] == COLOUR).all() and (shown[0] == 255).all()


def test_a_bmp_that_is_not_read_is_named() -> None:
    with pytest.raises(UnsupportedPicture, match="unusual layout"):
        decode(bmp(layer(255), 56, (0x3FF00000, 0xFFC00, 0x3FF, 0)), SIDE)
