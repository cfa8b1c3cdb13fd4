"""The colour profile embedded in a PNG or BMP: an ICC profile, or one made of the primaries and curve stored there.

JPEG, TIFF and WebP carry ICC profiles only. Not applied, as in viewers: TIFF's calibration tags (WhitePoint,
PrimaryChromaticities, TransferFunction), and the colour space that EXIF names.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.formats import png
from model.formats.color_profile import MAX_PROFILE_BYTES
from model.formats.errors import PictureError, UndecodablePicture, UnsupportedPicture

Chromaticity = tuple[float, float]  # x, y of CIE 1931

_D50 = np.array([0.9642, 1.0, 0.8249])  # the profile connection space's white (ICC.1:2022 section 7.2.16)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65: Chromaticity = (0.3127, 0.3290)


@dataclass(frozen=True, slots=True)
class Primaries:
    """Chromaticities of red, green, blue and white."""

    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity
    white: Chromaticity = D65


SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
#: Parameters of a tone curve (ICC.1:2022 section 10.18): gamma, then a, b, c, d of the linear part.
Curve = tuple[float, ...]
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def matrix_profile(primaries: Primaries, curve: Curve) -> bytes:
    """An ICC profile of version 4 for RGB pictures.

    Raises:
        ValueError: the primaries are on one line, or a value is out of range.
    """
    colorants = _adapted(primaries).T
    parametric = struct.pack(">4sIHH", b"para", 0, 0 if len(curve) == 1 else 3, 0) + b"".join(map(_fixed, curve))
    tags = {
        b"wtpt": _xyz(_D50),
        **{name: _xyz(colorant) for name, colorant in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), parametric),
    }
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s", at + len(body), bytes(4), 0x04400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp"
    )
    return header.ljust(68, b"\0") + b"".join(map(_fixed, _D50)) + bytes(48) + table + body


def _adapted(primaries: Primaries) -> NDArray[np.float64]:
    """The matrix (3, 3) from linear RGB to XYZ of D50, by Bradford's adaptation (ICC.1:2022 annex E)."""
    corners = np.array([_xyz_of(point) for point in (primaries.red, primaries.green, primaries.blue)]).T
    white = _xyz_of(primaries.white)
    with np.errstate(all="ignore"):
        try:
            matrix = corners * np.linalg.solve(corners, white)
        except np.linalg.LinAlgError as error:
            raise ValueError("the primaries lie on one line") from error
        scale = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
        return np.linalg.solve(_BRADFORD, scale @ _BRADFORD @ matrix)


def _xyz_of(point: Chromaticity) -> NDArray[np.float64]:
    x, y = point
    if not (0 <= x <= 1 and 0 < y <= 1):
        raise ValueError("invalid chromaticity")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    """A number as s15Fixed16Number."""
    if not abs(value) < 32768:
        raise ValueError("value out of range")
    return struct.pack(">i", round(value * 65536))


#: A gamma within this tolerance of 1/2.2 means sRGB's curve, as in libpng (PNG_GAMMA_THRESHOLD).
GAMMA_TOLERANCE = 0.05

_COLOUR_CHUNKS = {b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}
_DAMAGED = "the colour profile is damaged; convert the picture to sRGB, or send it without the profile"
_BT2020 = Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
#: Colour primaries and transfer characteristics of ITU-T H.273 (tables 2 and 3), as far as photographs use them.
_PRIMARIES = {
    1: SRGB_PRIMARIES,
    5: Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: _BT2020,
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_BT709_CURVE: Curve = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 14, 15), _BT709_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: SRGB_CURVE,
}


def embedded_profile(form: str, data: bytes) -> bytes | None:
    """The ICC profile of a PNG or BMP, or one made of its primaries and curve; None for sRGB or no information.

    Raises:
        UndecodablePicture: the information is damaged.
        UnsupportedPicture: the profile is in another file, or the picture is high dynamic range.
    """
    reader = _READERS.get(form)
    try:
        return reader(data) if reader else None
    except PictureError:
        raise
    except (ArithmeticError, ValueError, struct.error, zlib.error) as error:
        raise UndecodablePicture(_DAMAGED) from error


def _png_profile(data: bytes) -> bytes | None:
    """The profile by precedence: cICP, iCCP, sRGB, then gAMA and cHRM (PNG, third edition, section 4.3)."""
    found = [chunk for chunk in png.chunks(data) if chunk.name in _COLOUR_CHUNKS]
    chunks = {chunk.name: png.body(data, chunk) for chunk in found}
    if b"cICP" in chunks:
        return _video_profile(*struct.unpack("4B", chunks[b"cICP"]))
    if b"iCCP" in chunks:
        return _unpacked(chunks[b"iCCP"])
    if b"sRGB" in chunks or not {b"gAMA", b"cHRM"} & chunks.keys():
        return None
    curve, primaries = SRGB_CURVE, SRGB_PRIMARIES
    if b"gAMA" in chunks:
        curve = _curve(100_000 / (struct.unpack(">I", chunks[b"gAMA"])[0] or 1))
    if b"cHRM" in chunks:
        numbers = [number / 100_000 for number in struct.unpack(">8I", chunks[b"cHRM"])]
        white, red, green, blue = zip(numbers[::2], numbers[1::2], strict=True)
        primaries = Primaries(red, green, blue, white)
    return matrix_profile(primaries, curve)


def _unpacked(chunk: bytes) -> bytes:
    name, _, packed = chunk.partition(b"\0")
    unpacking = zlib.decompressobj()
    profile = unpacking.decompress(packed[1:], MAX_PROFILE_BYTES + 1)  # one byte more is refused later as too long
    if not name or packed[:1] != b"\0" or not (unpacking.eof or len(profile) > MAX_PROFILE_BYTES):
        raise UndecodablePicture(_DAMAGED)
    return profile


def _video_profile(primaries: int, transfer: int, matrix: int, full_range: int) -> bytes:
    if primaries not in _PRIMARIES or transfer not in _CURVES or (matrix, full_range) != (0, 1):
        raise UnsupportedPicture(
            f"a PNG with the video or HDR colour space {primaries}/{transfer}/{matrix}/{full_range} (cICP);"
            " convert the picture to sRGB"
        )
    return matrix_profile(_PRIMARIES[primaries], _CURVES[transfer])


def _curve(gamma: float) -> Curve:
    return SRGB_CURVE if abs(gamma / 2.2 - 1) <= GAMMA_TOLERANCE else (gamma,)


def _bmp_profile(data: bytes) -> bytes | None:
    """The profile by the colour space type of header version 4 or 5 (Windows GDI, BITMAPV5HEADER)."""
    header_size = int.from_bytes(data[14:18], "little")
    space = data[70:74][::-1]
    if header_size < 108:
        return None
    if space == b"LINK":
        raise UnsupportedPicture("a BMP with its colour profile in another file; convert the picture to sRGB")
    if space == b"MBED" and header_size >= 124:
        offset, size = struct.unpack_from("<2I", data, 126)
        if not size or 14 + offset + size > len(data):
            raise UndecodablePicture(_DAMAGED)
        return data[14 + offset : 14 + offset + size]
    return _calibrated(data) if space == bytes(4) else None


def _calibrated(data: bytes) -> bytes | None:
    """The profile by end points and gammas; None if they are all zero, as most writers leave them."""
    numbers = [number / 2**30 for number in struct.unpack_from("<9i", data, 74)]
    gammas = [number / 2**16 for number in struct.unpack_from("<3I", data, 110)]
    if not any(numbers):
        return None
    if len(set(gammas)) > 1:
        raise UnsupportedPicture("a BMP with different gammas for red, green and blue; convert the picture to sRGB")
    points = [numbers[at : at + 3] for at in (0, 3, 6)]
    red, green, blue = ((x / (x + y + z), y / (x + y + z)) for x, y, z in points)
    return matrix_profile(Primaries(red, green, blue, D65), _curve(gammas[0]) if gammas[0] else SRGB_CURVE)


_READERS: dict[str, Callable[[bytes], bytes | None]] = {"PNG": _png_profile, "BMP": _bmp_profile}
