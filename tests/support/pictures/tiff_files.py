"""TIFF files of any layout, written by hand: classic and BigTIFF, both byte orders, pages, sub-directories, planes."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = int | tuple[int, ...] | str


class Page(NamedTuple):
    """One directory: its tags but those that place the strips, its strips, and its sub-directories."""

    tags: Mapping[int, Values]
    strips: Sequence[bytes]
    children: Sequence["Page"] = ()


def page(
    pixels: NDArray[np.generic], photometric: int = 2, *, order: str = "<", planar: bool = False, deflate: bool = False,
    predictor: bool = False, tags: Mapping[int, Values] | None = None, children: Sequence[Page] = (),
) -> Page:  # fmt: skip
    """Pixels (H, W, C) of 8 or 16 bits in strips of 7 rows."""
    height, width, samples = pixels.shape
    planes = [pixels[:, :, [channel]] for channel in range(samples)] if planar else [pixels]
    if predictor:
        planes = [np.diff(plane, axis=1, prepend=np.zeros_like(plane[:, :1])) for plane in planes]
    stored = [plane.astype(plane.dtype.newbyteorder(order)) for plane in planes]
    strips = [plane[top : top + 7].tobytes() for plane in stored for top in range(0, height, 7)]
    described = {
        256: width, 257: height, 258: (8 * pixels.itemsize,) * samples, 259: 8 if deflate else 1, 262: photometric,
        277: samples, 278: 7, 284: 2 if planar else 1, 317: 2 if predictor else 1, **(tags or {}),
    }  # fmt: skip
    return Page(described, [zlib.compress(strip) for strip in strips] if deflate else strips, children)


class _Writer:
    def __init__(self, order: str, big: bool) -> None:
        self.order, self.big = order, big
        self.file = bytearray((b"II" if order == "<" else b"MM") + self.pack("H", 43 if big else 42))
        self.file += self.pack("HHQ", 8, 0, 0) if big else self.pack("I", 0)
        self.link = len(self.file) - (8 if big else 4)

    def pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self.order + form, *values)

    def add(self, added: Page, linked: bool = True) -> int:
        children = [self.add(child, linked=False) for child in added.children]
        offsets = []
        for strip in added.strips:
            offsets.append(len(self.file))
            self.file += strip
        places, sizes = (324, 325) if 322 in added.tags else (273, 279)
        tags = {**added.tags, places: tuple(offsets), sizes: tuple(map(len, added.strips))}
        if children:
            tags[330] = tuple(children)
        lines = b"".join(self.line(tag, values) for tag, values in sorted(tags.items()))
        at = len(self.file)
        self.file += self.pack("Q" if self.big else "H", len(tags)) + lines
        if linked:
            pointer = self.pack("Q" if self.big else "I", at)
            self.file[self.link : self.link + len(pointer)] = pointer
            self.link = len(self.file)
        self.file += bytes(8 if self.big else 4)
        return at

    def line(self, tag: int, values: Values) -> bytes:
        kind, count, raw = self.encoded(values)
        room = 8 if self.big else 4
        if len(raw) > room:
            self.file += bytes(len(self.file) % 2)
            pointer = self.pack("Q" if self.big else "I", len(self.file))
            self.file += raw
            raw = pointer
        return self.pack("HHQ" if self.big else "HHI", tag, kind, count) + raw.ljust(room, b"\0")

    def encoded(self, values: Values) -> tuple[int, int, bytes]:
        if isinstance(values, str):
            return 2, len(values) + 1, values.encode() + b"\0"
        numbers = values if isinstance(values, tuple) else (values,)
        kind, form = (3, "H") if max(numbers) < 1 << 16 else (4, "I")
        return kind, len(numbers), self.pack(f"{len(numbers)}{form}", *numbers)


def tiff_file(*pages: Page, order: str = "<", big: bool = False, behind: bytes = b"") -> bytes:
    """A file of these pages, with `behind` at its end."""
    writer = _Writer(order, big)
    for each in pages:
        writer.add(each)
    return bytes(writer.file) + behind
