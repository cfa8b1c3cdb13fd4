"""PNG: one frame, with the transparent colour and the 16-bit samples that Pillow does not scale."""

import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.orientation import orientation_of
from model.formats.picture_size import check_size
from model.formats.sample_depth import Scale, depth, to_8_bit

_GREY, _GREY_ALPHA = 0, 4
#: Colour type → mode of the picture and its colour samples, without alpha (PNG specification, section 11.2.1).
_DEEP = {_GREY: ("L", 1), 2: ("RGB", 3), _GREY_ALPHA: ("LA", 1), 6: ("RGBA", 3)}
#: How Pillow unpacks the upper and the lower byte of each 16-bit sample.
_HALVES = {2: ("RGB;16B", "RGB;16L"), 6: ("RGBA;16B", "RGBA;16L")}


def read(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The one frame with 8 bits a sample, as it is stored, and its orientation.

    Raises:
        PictureError: too large, an animation, samples that cannot be scaled, or broken.
    """
    picture = PngImageFile(BytesIO(data))
    check_size(*picture.size, max_pixels)
    if picture.n_frames > 1:
        raise UnsupportedPicture("an animation: which of its frames is the cell cannot be told; send one picture")
    if data[12:16] != b"IHDR":
        raise UndecodablePicture("the PNG data is broken: its header is not the first chunk")
    bits, colour_type = data[24:26]
    picture.load()
    if bits == 16:
        return _from_16_bit(picture, data, colour_type), orientation_of(picture)
    if colour_type in (_GREY, 2) and "transparency" in picture.info:
        picture.info["transparency"] = _transparent_colour(picture.info["transparency"], bits)
    return picture, orientation_of(picture)


def _transparent_colour(value: int | tuple[int, ...], bits: int) -> int | tuple[int, ...]:
    """The value of tRNS in the 8-bit samples that Pillow scales the pixels to; the bits above the depth are idle."""
    largest = (1 << bits) - 1
    if isinstance(value, tuple):
        return tuple(sample & largest for sample in value)
    return value if bits == 1 else (value & largest) * 255 // largest


def _from_16_bit(picture: PngImageFile, data: bytes, colour_type: int) -> Image.Image:
    mode, colours = _DEEP[colour_type]
    samples = _samples(picture, data, colour_type)
    transparent = picture.info.get("transparency")
    if transparent is not None:
        hidden = (samples == np.array(transparent)).all(axis=2, keepdims=True)
        samples = np.concatenate([samples, np.where(hidden, 0, 0xFFFF).astype(np.uint16)], axis=2)
        mode += "A"
    pixels = to_8_bit(samples, colours, _significant_bits(data, colours))
    shown = Image.frombytes(mode, picture.size, pixels.tobytes())
    shown.info["icc_profile"] = picture.info.get("icc_profile")
    return shown


def _samples(picture: PngImageFile, data: bytes, colour_type: int) -> NDArray[np.uint16]:
    """The 16-bit samples, (H, W, C). Pillow keeps 8 bits of colours: the file is decoded once for each byte."""
    if colour_type == _GREY:
        return np.asarray(picture).astype(np.uint16)[:, :, None]
    if colour_type == _GREY_ALPHA:
        return _unpacked(data, "RGBA").view(">u2").astype(np.uint16)
    upper, lower = _HALVES[colour_type]
    return np.stack([_unpacked(data, lower), _unpacked(data, upper)], axis=-1).view("<u2")[..., 0].astype(np.uint16)


def _unpacked(data: bytes, raw_mode: str) -> NDArray[np.uint8]:
    picture = PngImageFile(BytesIO(data))
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    picture.load()
    return np.asarray(picture)


def _significant_bits(data: bytes, colours: int) -> list[Scale]:
    """By sBIT, for samples that were left in the lower bits; those that fill 16 bits, as they should, do not fit it."""
    return [depth(max(body[:colours])) for name, body in _chunks(data) if name == b"sBIT" and len(body) >= colours]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk's name and body, up to the pixels."""
    at = 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            return
        yield name, data[at + 8 : at + 8 + size]
        at += 12 + size
