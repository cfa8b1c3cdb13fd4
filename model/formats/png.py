"""PNG files: chunks, one frame, transparent colours and 16-bit samples, which Pillow does not scale."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from model.formats.checks import check_size
from model.formats.display import UPRIGHT, orientation_of
from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.sample_depth import Scale, depth, to_8_bit

#: Enough for 16 million pixels of 8 bytes in chunks of 2 KB; writers use 8 KB and more.
MAX_CHUNKS = 65_536
MAX_METADATA_BYTES = 1 << 20
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_LOOKS = {b"sBIT", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0\0\0", b"Raw profile type exif\0"


class Chunk(NamedTuple):
    """A chunk's name and its position in the file, from its length field to its checksum."""

    name: bytes
    start: int
    end: int


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks up to IEND.

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
    """The data of a chunk."""
    return data[chunk.start + 8 : chunk.end - 4]


def _is_whole(data: bytes, chunk: Chunk) -> bool:
    checksum = int.from_bytes(data[chunk.end - 4 : chunk.end], "big")
    return zlib.crc32(memoryview(data)[chunk.start + 4 : chunk.end - 4]) == checksum


def picture_alone(data: bytes, found: list[Chunk]) -> bytes:
    """The file without chunks that do not affect the pixels. Unknown critical chunks stay, and Pillow refuses them.

    Raises:
        UndecodablePicture: a chunk of the pixels or their appearance is damaged.
    """
    kept = [chunk for chunk in found if chunk.name in _PICTURE or chunk.name[:1].isupper()]
    looks = [chunk for chunk in found if chunk.name in _LOOKS]
    if not all(_is_whole(data, chunk) for chunk in (*kept, *looks)):
        raise UndecodablePicture("the PNG data is damaged: a checksum is wrong; send the file again, unchanged")
    if len(kept) == len(found):
        return data
    return data[:8] + b"".join(data[chunk.start : chunk.end] for chunk in kept)


def orientation(data: bytes, found: list[Chunk]) -> int:
    """Orientation by EXIF (a chunk, or ImageMagick's text chunk) or XMP; 1 if missing or damaged."""
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


_GREY, _RGB, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 4, 6
#: Colour type → mode of the picture and its colour samples, without alpha (PNG specification, section 11.2.1).
_DEEP = {_GREY: ("L", 1), _RGB: ("RGB", 3), _GREY_ALPHA: ("LA", 1), _RGB_ALPHA: ("RGBA", 3)}
#: Raw modes with which Pillow keeps the lower byte of each 16-bit sample instead of the upper one.
_LOWER_BYTES = {_RGB: "RGB;16L", _RGB_ALPHA: "RGBA;16L"}


def read(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The frame with 8 bits a sample, as stored, and its orientation.

    Raises:
        PictureError: too large, an animation, samples of unknown brightness, or damaged.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise UndecodablePicture("the PNG data is damaged: its header is cut off or not the first chunk")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    check_size(width, height, max_pixels)
    found = list(chunks(data))
    alone = picture_alone(data, found)
    picture = PngImageFile(BytesIO(alone))
    if picture.n_frames > 1:
        raise UnsupportedPicture("an animation; send one frame as a still picture")
    picture.load()
    if bits == 16:
        declared = _significant_bits(data, found, _DEEP[colour_type][1])
        return _from_16_bit(picture, alone, colour_type, declared), orientation(data, found)
    if colour_type in (_GREY, _RGB) and "transparency" in picture.info:
        picture.info["transparency"] = _transparent_colour(picture.info["transparency"], bits)
    return picture, orientation(data, found)


def _transparent_colour(value: int | tuple[int, ...], bits: int) -> int | tuple[int, ...]:
    """The colour of tRNS, scaled to 8-bit samples as Pillow scales the pixels; bits above the depth are ignored."""
    largest = (1 << bits) - 1
    if isinstance(value, tuple):
        return tuple(sample & largest for sample in value)
    return value if bits == 1 else (value & largest) * 255 // largest


def _from_16_bit(picture: PngImageFile, data: bytes, colour_type: int, declared: list[Scale]) -> Image.Image:
    mode, colours = _DEEP[colour_type]
    samples = _samples(picture, data, colour_type)
    transparent = picture.info.get("transparency")
    if transparent is not None:
        hidden = (samples == np.array(transparent)).all(axis=2, keepdims=True)
        samples = np.concatenate([samples, np.where(hidden, 0, 0xFFFF).astype(np.uint16)], axis=2)
        mode += "A"
    pixels = np.ascontiguousarray(to_8_bit(samples, colours, declared))
    return Image.frombuffer(mode, picture.size, pixels, "raw", mode, 0, 1)


def _samples(picture: PngImageFile, data: bytes, colour_type: int) -> NDArray[np.uint16]:
    """The 16-bit samples (H, W, C). Pillow keeps 8 bits of colours, so the file is decoded once for each byte."""
    if colour_type == _GREY:
        return np.asarray(picture).astype(np.uint16, copy=False)[:, :, None]
    if colour_type == _GREY_ALPHA:
        return _unpacked(data, "RGBA").view(">u2").astype(np.uint16)
    samples = np.asarray(picture).astype(np.uint16)
    samples <<= 8
    samples |= _unpacked(data, _LOWER_BYTES[colour_type])
    return samples


def _unpacked(data: bytes, raw_mode: str) -> NDArray[np.uint8]:
    picture = PngImageFile(BytesIO(data))
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    picture.load()
    return np.asarray(picture)


def _significant_bits(data: bytes, found: list[Chunk], colours: int) -> list[Scale]:
    """The depth in sBIT, if samples use the lower bits only; in valid PNG files they are scaled to the full 16 bits."""
    held = [set(body(data, chunk)[:colours]) for chunk in found if chunk.name == b"sBIT"]
    return [depth(bits.pop()) for bits in held if len(bits) == 1]  # scaling by different depths would change the hue
