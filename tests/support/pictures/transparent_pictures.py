"""Completely transparent pictures."""

import struct

import numpy as np
from pictures import COLOUR, SIDE, encoded, plain, png, png_file
from tiff_files import page, tiff_file

CELL = np.full((SIDE, SIDE, 3), COLOUR, np.uint8)


def layer(alpha: int | np.ndarray) -> np.ndarray:
    return np.concatenate([CELL, np.broadcast_to(np.uint8(alpha), (SIDE, SIDE))[:, :, None]], axis=2)


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
