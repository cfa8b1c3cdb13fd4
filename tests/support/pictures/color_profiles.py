"""Colour profiles for tests: of screens and cameras, of printing inks, and pictures stored in their colours."""

import struct
from collections.abc import Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.formats.embedded_profile import SRGB_CURVE, SRGB_PRIMARIES, Primaries, matrix_profile

DISPLAY_P3 = matrix_profile(Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), SRGB_CURVE)
ADOBE_RGB = matrix_profile(Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), (563 / 256,))
PROPHOTO = matrix_profile(
    Primaries((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), (0.345704, 0.358540)), (1.8,)
)
#: sRGB by another name: written by littleCMS, not by this project.
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR = matrix_profile(SRGB_PRIMARIES, (1.0,))


def profile_of(space: bytes, device_class: bytes, tags: Mapping[bytes, bytes], pcs: bytes = b"Lab ") -> bytes:
    """An ICC profile of version 2."""
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", at + len(body), bytes(4), 0x02400000, device_class, space, pcs, bytes(12), b"acsp"
    )
    return header.ljust(68, b"\0") + bytes.fromhex("0000f6d6000100000000d32d") + bytes(48) + table + body


def lookup_table(levels: NDArray[np.float64]) -> bytes:
    """An A2B table (lut16Type) of Lab values of shape (n, ..., n, 3); its axes are the colorants."""
    inputs, points = levels.ndim - 1, levels.shape[0]
    lab = np.stack([levels[..., 0] * 652.8, (levels[..., 1] + 128) * 256, (levels[..., 2] + 128) * 256], axis=-1)
    straight = np.array([0, 65535], ">u2").tobytes()
    identity = b"".join(struct.pack(">i", 65536 if n % 4 == 0 else 0) for n in range(9))
    return (
        b"mft2\0\0\0\0" + bytes((inputs, 3, points, 0)) + identity + struct.pack(">HH", 2, 2)
        + straight * inputs + lab.round().clip(0, 65535).astype(">u2").tobytes() + straight * 3
    )  # fmt: skip


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB levels 0..1 → CIELAB of D50, by the definitions of IEC 61966-2-1 and CIE 15."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    ratio = linear @ np.array(matrix).T / [0.9642, 1.0, 0.8251]
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def _grid(axes: int, points: int) -> NDArray[np.float64]:
    steps = np.linspace(0, 1, points)
    return np.stack(np.meshgrid(*[steps] * axes, indexing="ij"), axis=-1)


#: Red and green are exchanged: a table that no other reading of the picture comes near to.
EXCHANGED = profile_of(b"RGB ", b"scnr", {b"A2B0": lookup_table(_lab(_grid(3, 17)[..., [1, 0, 2]]))})
_INKS = _grid(4, 9)
#: Inks that each take their part of the light: cyan 1 is sRGB red 0, and black takes a part of all.
INKS = profile_of(b"CMYK", b"prtr", {b"A2B0": lookup_table(_lab((1 - _INKS[..., :3]) * (1 - _INKS[..., 3:])))})
#: Grey of gamma 1.0: its middle is much lighter than sRGB's.
LINEAR_GREY = profile_of(b"GRAY", b"mntr", {b"kTRC": b"curv" + bytes(8)}, b"XYZ ")


def stored_in(picture: Image.Image, profile: bytes) -> Image.Image:
    """A picture of sRGB in the colours of a profile, as an editor converts it."""
    source, target = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        ImageCms.ImageCmsProfile(BytesIO(profile)),
    )
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.ImageCmsTransform(source, target, "RGB", "RGB", intent).apply(picture)
    converted.info.clear()
    return converted
