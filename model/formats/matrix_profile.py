"""ICC profiles made from primaries, a white point and a curve: what PNG and BMP say in numbers instead of a profile."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Chromaticity = tuple[float, float]  # x, y of CIE 1931

_D50 = np.array([0.9642, 1.0, 0.8249])  # the profile connection space's white (ICC.1:2022 section 7.2.16)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65: Chromaticity = (0.3127, 0.3290)


@dataclass(frozen=True, slots=True)
class Primaries:
    """Where red, green, blue and white lie."""

    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity
    white: Chromaticity = D65


SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
#: A curve's type and parameters (ICC.1:2022 section 10.18): gamma, then a, b, c, d of its linear foot.
Curve = tuple[float, ...]
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def matrix_profile(primaries: Primaries, curve: Curve) -> bytes:
    """An ICC profile of version 4 for RGB pictures.

    Raises:
        ValueError: primaries that span no colours, or numbers that a profile cannot hold.
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
        raise ValueError("no chromaticity")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    """s15Fixed16Number."""
    if not abs(value) < 32768:
        raise ValueError("a number that a profile cannot hold")
    return struct.pack(">i", round(value * 65536))
