"""Broken, oversized and multi-picture files, other file types, and the four ways to send a picture."""

import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

from PIL import Image

from stress.attacks.case import CANARY, Case, sends
from stress.clients.pictures import FORMATS, encoded, form, form_type, picture, tarred, zipped
from stress.clients.wire import post

Spoilt = Callable[[Random], tuple[str, bytes]]
#: A batch also holds sound pictures, which must not suffer.
_NEIGHBOURS = 3


@cache
def sound() -> dict[str, bytes]:
    """Valid files of every accepted format, in all variants that Pillow writes."""
    drawn = Image.frombytes("RGB", (64, 60), bytes(range(256)) * 45)
    grey, palette = drawn.convert("L"), drawn.quantize(16)
    return {
        **{form: picture(1, form) for form in FORMATS},
        "JPEG progressive": encoded(drawn, "JPEG", progressive=True),
        "JPEG grey": encoded(grey, "JPEG"),
        "JPEG CMYK": encoded(drawn.convert("CMYK"), "JPEG"),
        "JPEG restarts": encoded(drawn, "JPEG", restart_marker_blocks=2),
        "PNG palette": encoded(palette, "PNG"),
        "PNG 16 bit": encoded(grey.convert("I;16"), "PNG"),
        "PNG alpha": encoded(drawn.convert("RGBA"), "PNG"),
        "BMP palette": encoded(palette, "BMP"),
        "BMP 1 bit": encoded(grey.convert("1"), "BMP"),
        "TIFF LZW": encoded(drawn, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": encoded(drawn, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": encoded(drawn, "TIFF", compression="jpeg"),
        "TIFF G4": encoded(grey.convert("1"), "TIFF", compression="group4"),
        "WEBP lossless": encoded(drawn, "WEBP", lossless=True),
        "WEBP alpha": encoded(drawn.convert("RGBA"), "WEBP", lossless=True),
    }


def cut_off(chance: Random) -> tuple[str, bytes]:
    name, data = chance.choice(list(sound().items()))
    at = chance.randrange(len(data))
    return f"{name} cut at {at}", data[:at]


def bits_flipped(chance: Random) -> tuple[str, bytes]:
    name, data = chance.choice(list(sound().items()))
    spoilt, flips = bytearray(data), chance.choice((1, 1, 2, 8, 64))
    within = min(len(data), 200) if chance.random() < 0.5 else len(data)  # headers are where parsers go wrong
    for _ in range(flips):
        spoilt[chance.randrange(within)] ^= 1 << chance.randrange(8)
    return f"{name}, {flips} bits flipped in {within} bytes", bytes(spoilt)


def spliced(chance: Random) -> tuple[str, bytes]:
    (one, first), (other, second) = chance.choices(list(sound().items()), k=2)
    at, on = chance.randrange(len(first)), chance.randrange(len(second))
    filling = chance.choice((b"", b"\xff", b"\0", b"\xff\xda", b"IDAT")) * chance.randrange(200)
    return f"{one} to {at}, {len(filling)} bytes, {other} from {on}", first[:at] + filling + second[on:]


def vast(chance: Random) -> tuple[str, bytes]:
    """Headers of 60,000 x 60,000 pixels and similar, with little data."""
    side = chance.choice((60_000, 60_000, 32_768, 65_535, 16_383))
    name = chance.choice(list(_VAST))
    return f"{name} of {side} x {side}", _VAST[name](side)


def _vast_png(side: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + _PNG_REST


def _vast_jpeg(side: int) -> bytes:
    data = bytearray(picture(1, "JPEG"))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, side, side)
    return bytes(data)


def _vast_bmp(side: int) -> bytes:
    data = bytearray(picture(1, "BMP"))
    struct.pack_into("<ii", data, 18, side, side)
    return bytes(data)


def _vast_tiff(side: int) -> bytes:
    directory = b"".join(
        struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in ((256, side), (257, side), (259, 8), (262, 1), (273, 200), (277, 1), (278, side), (279, 40))
    )
    head = b"II*\0" + struct.pack("<IH", 8, 8) + directory + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + zlib.compress(bytes(1000))


def _vast_webp(side: int) -> bytes:
    size = (side - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
    rest = picture(1, "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(extended) + len(rest)) + b"WEBP" + extended + rest


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


_PNG_REST = chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
_VAST: dict[str, Callable[[int], bytes]] = {
    "PNG": _vast_png,
    "JPEG": _vast_jpeg,
    "BMP": _vast_bmp,
    "TIFF": _vast_tiff,
    "WEBP": _vast_webp,
}


@cache
def _several() -> dict[str, bytes]:
    pages = [Image.new("RGB", (40, 40), (shade, 90, 200 - shade)) for shade in range(0, 200, 4)]
    return {
        "PNG of 2 frames": encoded(pages[0], "PNG", save_all=True, append_images=pages[1:2]),
        "PNG of 50 frames": encoded(pages[0], "PNG", save_all=True, append_images=pages[1:]),
        "WEBP of 2 frames": encoded(pages[0], "WEBP", save_all=True, append_images=pages[1:2]),
        "WEBP of 50 frames": encoded(pages[0], "WEBP", save_all=True, append_images=pages[1:]),
        "TIFF of 2 pages": encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:2]),
        "TIFF of 50 pages": encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "GIF of 2 frames": encoded(pages[0], "GIF", save_all=True, append_images=pages[1:2]),
        "MPO of 2 pictures": encoded(pages[0], "MPO", save_all=True, append_images=pages[1:2]),
        "TIFF in a circle": _circle(encoded(pages[0], "TIFF")),
    }


def _circle(tiff: bytes) -> bytes:
    """A TIFF directory that names itself as the next one."""
    data = bytearray(tiff)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * count, at)
    return bytes(data)


def several(chance: Random) -> tuple[str, bytes]:
    """Animations, pages, stereo pairs; some of them broken too."""
    name, data = chance.choice(list(_several().items()))
    if chance.random() < 0.6:
        return name, data
    spoilt = bytearray(data)
    spoilt[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return f"{name}, a bit flipped", bytes(spoilt)


def polyglot(chance: Random) -> tuple[str, bytes]:
    """A picture that is also another file type, or another type that begins like a picture."""
    name, data = chance.choice(list(sound().items()))
    guest, other = chance.choice(list(_GUESTS.items()))
    shape = chance.choice(("after", "before", "magic", "alone"))
    spoilt = {"after": data + other, "before": other + data, "magic": data[:12] + other, "alone": other}[shape]
    return f"{guest}, {shape} {name}", spoilt


_GUESTS = {
    "ZIP": zipped([(f"{CANARY}.jpg", b"\xff\xd8\xff")]),
    "tar": tarred([(f"{CANARY}.jpg", b"\xff\xd8\xff")]),
    "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "GIF": encoded(Image.new("P", (20, 20)), "GIF"),
    "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><text>{CANARY}</text><script>1</script></svg>'.encode(),
    "HTML": f"<!doctype html><script>alert('{CANARY}')</script>".encode(),
    "XML of entities": b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(60),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(%s) run",
    "DICOM": bytes(128) + b"DICM" + CANARY.encode(),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "ICO": encoded(Image.new("RGB", (16, 16)), "ICO"),
    "PPM": b"P6 60000 60000 255\n",
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "text": f"{CANARY}\n".encode() * 10,
}


def delivered(family: str, chance: Random, what: str, data: bytes) -> Case:
    """A request with a picture in one of four forms: raw, form field, batch form, archive."""
    way = chance.choice(("body", "body", "form", "batch", "zip", "tar"))
    query = chance.choice(("", "?maps=none", "?maps=attention,evidence&map_format=overlay", "?top_k=1"))
    members = [*((f"{at}.jpg", picture(at)) for at in range(_NEIGHBOURS)), (f"{CANARY}.png", data)]
    if way == "body":
        kind = chance.choice(("jpeg", "png", "bmp", "tiff", "webp", "*", "x-anything"))
        request = post(f"/classify{query}", f"image/{kind}", data)
    elif way == "form":
        request = post(f"/classify{query}", form_type(), form("image", members[-1:]))
    elif way == "batch":
        request = post(f"/classify/batch{query}", form_type(), form("images", members))
    else:
        body, kind = (zipped(members), "application/zip") if way == "zip" else (tarred(members), "application/x-tar")
        request = post(f"/classify/batch{query}", kind, body)
    return sends(family, f"{what}, as {way}", request)
