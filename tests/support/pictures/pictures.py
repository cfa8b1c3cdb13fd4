"""Pictures of every supported kind, and of many unsupported ones, with their expected colours.

Pillow writes the kinds that it supports; the others are written by hand from the formats' specifications. The decoder
under test is not used.
"""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
COLOUR = (200, 100, 50)
SAMPLES_16 = (0xC812, 0x6434, 0x3256)  # COLOUR in the upper bytes
GREY = (200, 200, 200)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def plain(mode: str, colour: object, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    return Image.new(mode, size, colour)


def noise(width: int = 40, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def assert_same_but_for_rounding(pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    """Equal but for one grey level in a few places."""
    off = np.abs(pixels.astype(int) - expected)
    assert off.max() <= 1 and off.mean() < 0.02


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(depth: int, colour_type: int, row: bytes, transparency: bytes = b"", palette: bytes = b"") -> bytes:
    """A PNG of SIDE equal rows, written by hand: Pillow writes neither 16-bit colours nor every transparency."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour_type, 0, 0, 0)
    optional = b"".join(png_chunk(name, body) for name, body in ((b"PLTE", palette), (b"tRNS", transparency)) if body)
    pixels = png_chunk(b"IDAT", zlib.compress((b"\0" + row) * SIDE))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + optional + pixels + png_chunk(b"IEND", b"")


#: First column and row, and the steps across and down, of each pass of an interlaced PNG (Adam7).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_file(
    samples: NDArray[np.generic], *, bits: int = 0, before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (), interlaced: bool = False,
) -> bytes:  # fmt: skip
    """Samples (H, W, C) as grey, grey and alpha, RGB or RGBA, with chunks before and after the pixels."""
    height, width, channels = samples.shape
    depth = bits or 8 * samples.itemsize
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for left, top, across, down in passes:
        for row in samples[top::down, left::across] if width > left else ():
            digits = (row.reshape(-1, 1).astype(np.uint16) >> np.arange(depth - 1, -1, -1, dtype=np.uint16)) & 1
            rows += b"\0" + np.packbits(digits.astype(np.uint8)).tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks)


def tiff(strips: Sequence[bytes], bits: int, samples: int, photometric: int, **others: int) -> bytes:
    """A little-endian TIFF 6.0 written by hand: Pillow writes neither planes, nor white-is-zero, nor signed samples."""
    pixels_at = 1024
    offsets = [pixels_at + sum(map(len, strips[:n])) for n in range(len(strips))]
    sizes = [len(strip) for strip in strips]
    tile = others.get("tile")
    tags: dict[int, list[int]] = {
        256: [SIDE],
        257: [SIDE],
        258: [bits] * samples,
        259: [others.get("compression", 1)],
        262: [photometric],
        **({} if tile else {273: offsets}),
        274: [others.get("orientation", 1)],
        277: [samples],
        **({} if tile else {278: [others.get("rows", SIDE)], 279: sizes}),
        284: [others.get("planes", 1)],
        **({322: [tile], 323: [tile], 324: offsets, 325: sizes} if tile else {}),
        **({338: [others["extra"]]} if "extra" in others else {}),
        339: [others.get("sample_format", 1)] * samples,
    }
    directory, beyond, beyond_at = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag, values in tags.items():
        raw = struct.pack(f"<{len(values)}H", *values)
        if len(raw) > 4:
            raw, beyond = struct.pack("<I", beyond_at + len(beyond)), beyond + raw
        directory += struct.pack("<HHI", tag, 3, len(values)) + raw.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0) + beyond
    return head.ljust(pixels_at, b"\0") + b"".join(strips)


RGB_16 = struct.pack("<3H", *SAMPLES_16) * SIDE * SIDE
GREY_16 = struct.pack("<H", SAMPLES_16[0]) * SIDE * SIDE
BIG_RGB_16 = struct.pack(">3H", *SAMPLES_16) * SIDE
BIG_GREY_16 = struct.pack(">H", SAMPLES_16[0]) * SIDE
PALETTED = plain("RGB", COLOUR).quantize(4)

#: name → (bytes, the colour a person sees, the error that the format itself makes)
SEEN = {
    "jpeg": (encoded(plain("RGB", COLOUR), "JPEG", quality=95), COLOUR, 2),
    "jpeg progressive": (encoded(plain("RGB", COLOUR), "JPEG", quality=95, progressive=True), COLOUR, 2),
    "jpeg grey": (encoded(plain("L", 200), "JPEG"), GREY, 1),
    "jpeg cmyk, inverted by Adobe": (encoded(plain("CMYK", (0, 155, 205, 0)), "JPEG", quality=95), (255, 100, 50), 3),
    "jpeg of a camera, with a preview": (encoded(plain("RGB", COLOUR), "MPO", quality=95, save_all=True), COLOUR, 2),
    "png": (encoded(plain("RGB", COLOUR), "PNG"), COLOUR, 0),
    "png grey": (encoded(plain("L", 200), "PNG"), GREY, 0),
    "png 1 bit": (encoded(plain("1", 1), "PNG"), (255, 255, 255), 0),
    "png 4-bit grey": (png(4, 0, b"\xcc" * (SIDE // 2)), (204, 204, 204), 0),
    "png palette": (encoded(PALETTED, "PNG"), COLOUR, 0),
    "png palette, opaque": (png(8, 3, b"\1" * SIDE, b"\0\xff", bytes((1, 2, 3, *COLOUR))), COLOUR, 0),
    "png alpha": (encoded(plain("RGBA", (*COLOUR, 128)), "PNG"), (227, 177, 152), 1),
    "png grey and alpha": (encoded(plain("LA", (200, 128)), "PNG"), (227, 227, 227), 1),
    "png 16-bit": (png(16, 2, BIG_RGB_16), COLOUR, 0),
    "png 16-bit grey": (png(16, 0, BIG_GREY_16), GREY, 0),
    "png 16-bit alpha": (png(16, 6, struct.pack(">4H", *SAMPLES_16, 0x8000) * SIDE), (227, 177, 152), 1),
    "png 16-bit grey and alpha": (png(16, 4, struct.pack(">2H", SAMPLES_16[0], 0x8000) * SIDE), (227, 227, 227), 1),
    "bmp": (encoded(plain("RGB", COLOUR), "BMP"), COLOUR, 0),
    "bmp alpha": (encoded(plain("RGBA", (*COLOUR, 255)), "BMP"), COLOUR, 0),
    "bmp palette": (encoded(PALETTED, "BMP"), COLOUR, 0),
    "bmp 1 bit": (encoded(plain("1", 1), "BMP"), (255, 255, 255), 0),
    "tiff": (encoded(plain("RGB", COLOUR), "TIFF"), COLOUR, 0),
    "tiff lzw": (encoded(plain("RGB", COLOUR), "TIFF", compression="tiff_lzw"), COLOUR, 0),
    "tiff deflate": (encoded(plain("RGB", COLOUR), "TIFF", compression="tiff_adobe_deflate"), COLOUR, 0),
    "tiff jpeg, ycbcr": (encoded(plain("YCbCr", (118, 90, 187)), "TIFF", compression="jpeg"), (200, 86, 51), 4),
    "tiff ycbcr": (encoded(plain("YCbCr", (118, 90, 187)), "TIFF"), (200, 86, 51), 3),
    "tiff cmyk": (encoded(plain("CMYK", (55, 155, 205, 0)), "TIFF"), COLOUR, 1),
    "tiff palette": (encoded(PALETTED, "TIFF"), COLOUR, 0),
    "tiff alpha": (encoded(plain("RGBA", (*COLOUR, 128)), "TIFF"), (227, 177, 152), 1),
    "tiff premultiplied": (tiff([bytes((100, 50, 25, 128)) * SIDE**2], 8, 4, 2, extra=1), (227, 177, 152), 1),
    "tiff grey premultiplied": (tiff([bytes((100, 128)) * SIDE**2], 8, 2, 1, extra=1), (227, 227, 227), 1),
    "tiff with an idle channel": (tiff([bytes((*COLOUR, 0)) * SIDE**2], 8, 4, 2, extra=0), COLOUR, 0),
    "tiff planes": (tiff([bytes((c,)) * SIDE**2 for c in COLOUR], 8, 3, 2, planes=2), COLOUR, 0),
    "tiff tile": (tiff([bytes(COLOUR) * SIDE**2], 8, 3, 2, tile=SIDE), COLOUR, 0),
    "tiff tile, deflate": (
        tiff([zlib.compress(bytes(COLOUR) * SIDE**2)], 8, 3, 2, tile=SIDE, compression=8),
        COLOUR,
        0,
    ),
    "tiff 16-bit planes": (
        tiff([struct.pack("<H", sample) * SIDE**2 for sample in SAMPLES_16], 16, 3, 2, planes=2),
        COLOUR,
        0,
    ),
    "tiff white is zero": (tiff([bytes((55,)) * SIDE**2], 8, 1, 0), GREY, 0),
    "tiff 16-bit": (tiff([RGB_16], 16, 3, 2), COLOUR, 0),
    "tiff 16-bit grey": (tiff([GREY_16], 16, 1, 1), GREY, 0),
    "tiff 16-bit white is zero": (tiff([GREY_16], 16, 1, 0), (55, 55, 55), 0),
    "tiff 16-bit lzw": (encoded(plain("I;16", SAMPLES_16[0]), "TIFF", compression="tiff_lzw"), GREY, 0),
    "tiff 16-bit big-endian": (encoded(plain("I;16B", SAMPLES_16[0]), "TIFF"), GREY, 0),
    "tiff 12-bit grey": (tiff([b"\xc8\x1c\x81" * (SIDE**2 // 2)], 12, 1, 1), GREY, 0),
    "webp": (encoded(plain("RGB", COLOUR), "WEBP", quality=95), COLOUR, 4),
    "webp lossless": (encoded(plain("RGB", COLOUR), "WEBP", lossless=True), COLOUR, 0),
    "webp alpha": (encoded(plain("RGBA", (*COLOUR, 128)), "WEBP", lossless=True), (227, 177, 152), 1),
}
