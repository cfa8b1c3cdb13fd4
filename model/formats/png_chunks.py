"""The chunks of a PNG: those that make the picture, and the metadata that says which way up it is.

Pillow is given the first kind alone: damage in a text or in EXIF is no damage of pixels.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from model.formats.errors import UndecodablePicture
from model.formats.orientation import UPRIGHT, orientation_of

#: 16 million pixels of 8 bytes in chunks of 2 KB; writers use 8 KB and more.
MAX_CHUNKS = 65_536
MAX_METADATA_BYTES = 1 << 20
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_LOOKS = {b"sBIT", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0\0\0", b"Raw profile type exif\0"


class Chunk(NamedTuple):
    """A chunk's name and where in the file it stands, from its length to its checksum."""

    name: bytes
    start: int
    end: int


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND.

    Raises:
        UndecodablePicture: too many, or the file ends before IEND does.
    """
    at = 8
    for _ in range(MAX_CHUNKS):
        size, name = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        if at + 12 + size > len(data):
            raise UndecodablePicture("the PNG data is cut off: its end chunk is missing; send the whole file again")
        yield Chunk(name, at, at + 12 + size)
        if name == b"IEND":
            return
        at += 12 + size
    raise UndecodablePicture(f"a PNG of more than {MAX_CHUNKS} chunks")


def body(data: bytes, chunk: Chunk) -> bytes:
    """What a chunk holds."""
    return data[chunk.start + 8 : chunk.end - 4]


def _is_whole(data: bytes, chunk: Chunk) -> bool:
    checksum = int.from_bytes(data[chunk.end - 4 : chunk.end], "big")
    return zlib.crc32(memoryview(data)[chunk.start + 4 : chunk.end - 4]) == checksum


def picture_alone(data: bytes, found: list[Chunk]) -> bytes:
    """The file without what says nothing of the pixels; chunks that are critical and unknown stay, to be refused.

    Raises:
        UndecodablePicture: a chunk that makes the pixels, or says how they look, is damaged.
    """
    kept = [chunk for chunk in found if chunk.name in _PICTURE or chunk.name[:1].isupper()]
    looks = [chunk for chunk in found if chunk.name in _LOOKS]
    if not all(_is_whole(data, chunk) for chunk in (*kept, *looks)):
        raise UndecodablePicture("the PNG data is damaged: a checksum is wrong; send the file again, unchanged")
    if len(kept) == len(found):
        return data
    return data[:8] + b"".join(data[chunk.start : chunk.end] for chunk in kept)


def orientation(data: bytes, found: list[Chunk]) -> int:
    """By EXIF, as a chunk or as ImageMagick's text, or by XMP; 1 where it is damaged or there is none."""
    metadata = Image.new("1", (1, 1))
    for chunk in found:
        if chunk.name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt") and chunk.end - chunk.start < MAX_METADATA_BYTES:
            if _is_whole(data, chunk):
                _add(metadata.info, chunk.name, body(data, chunk))
    return orientation_of(metadata) if metadata.info else UPRIGHT


def _add(info: dict[str | tuple[int, int], object], name: bytes, held: bytes) -> None:
    if name == b"eXIf":
        info["exif"] = b"Exif\0\0" + held
    elif name == b"iTXt" and held.startswith(_XMP):
        info["xmp"] = held
    elif name in (b"tEXt", b"zTXt") and held.startswith(_RAW_EXIF):
        text = held[len(_RAW_EXIF) :]
        if name == b"zTXt":
            try:
                text = zlib.decompressobj().decompress(text[1:], MAX_METADATA_BYTES)
            except zlib.error:
                return
        info["Raw profile type exif"] = text.decode("latin-1")
