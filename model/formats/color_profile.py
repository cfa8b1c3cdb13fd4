"""Conversion of a picture's colours to sRGB by its ICC profile. The network is trained on sRGB.

Uses littleCMS (MIT, in Pillow's wheels), relative colorimetric with black point compensation: white stays white, and
colours outside sRGB are clipped to it. A profile equal to sRGB within one grey level is skipped. A picture with a
profile that cannot be applied is refused: its colours are unknown (docs/decisions/0014).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.formats.errors import UndecodablePicture, UnsupportedPicture

#: Profiles of cameras and screens have 0.5 to 20 KB, those of printing presses up to 3 MB (PSOcoated_v3).
MAX_PROFILE_BYTES = 4 * 2**20
#: A cached RGB transform needs 0.2 MB, a CMYK one up to 2 MB.
MAX_TRANSFORMS = 32

_HEADER_BYTES = 128
_DEVICE_CLASSES = {b"scnr", b"mntr", b"prtr", b"spac"}  # not device links, abstract profiles and named colours
_MODES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
_NAMES = {"L": "grey", "RGB": "RGB", "CMYK": "CMYK"}
# Multi-process elements: programs of any length, run for each of 36,000 grid points. No camera writes them.
_PROGRAM_TAGS = {b"D2B0", b"D2B1", b"D2B2", b"D2B3"}
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_BLACK_POINT = ImageCms.Flags.BLACKPOINTCOMPENSATION
# What littleCMS precalculates. For colours a fine grid, at most one level off (mean 0.05). For grey nothing: its grid
# is off by ten levels in dark areas, and the 256 values are converted once anyway.
_PRECALCULATION = {
    "L": ImageCms.Flags.NOOPTIMIZE,
    "RGB": ImageCms.Flags.HIGHRESPRECALC,
    "CMYK": ImageCms.Flags.HIGHRESPRECALC,
}
_ADVICE = "convert the picture to sRGB, or send it without the profile"

#: Converts a picture of any mode to RGB without alpha.
Transform = Callable[[Image.Image], Image.Image]
_transforms: OrderedDict[bytes, tuple[str, Transform | None]] = OrderedDict()
_lock = Lock()


def in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB, as RGB or RGBA; the same object without a profile or with one equal to sRGB.

    Raises:
        UnsupportedPicture: the profile is for another colour mode, too large, or not of a device.
        UndecodablePicture: the profile cannot be read.
    """
    transform = transform_to_srgb(profile, _mode_of_colours(picture))
    if transform is None:
        return picture
    if not picture.has_transparency_data:
        return transform(picture)
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    converted = transform(layer)
    converted.putalpha(layer.getchannel("A"))
    return converted


def transform_to_srgb(profile: bytes | None, mode: str) -> Transform | None:
    """The conversion of pictures of this mode (L, RGB or CMYK); None without a profile or with one equal to sRGB.

    Raises:
        UnsupportedPicture, UndecodablePicture: as `in_srgb`.
    """
    if not profile:
        return None
    if len(profile) > MAX_PROFILE_BYTES:
        raise UnsupportedPicture(
            f"a colour profile of {len(profile)} bytes; at most {MAX_PROFILE_BYTES} are allowed; {_ADVICE}"
        )
    own, transform = _cached(profile)
    if own != mode and (own, mode) != ("RGB", "L"):
        raise UnsupportedPicture(f"a colour profile for {_NAMES[own]} in a picture of {_NAMES[mode]}; {_ADVICE}")
    return transform


def _mode_of_colours(picture: Image.Image) -> str:
    if picture.mode == "CMYK":
        return "CMYK"
    return "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"


def _check_header(profile: bytes) -> str:
    """The colour mode of a profile (ICC.1:2022 sections 7.2 and 7.3)."""
    size = int.from_bytes(profile[:4], "big")
    if profile[36:40] != b"acsp" or not _HEADER_BYTES < size <= len(profile):
        raise UndecodablePicture(f"the colour profile is damaged; {_ADVICE}")
    device_class, space = profile[12:16], profile[16:20]
    if device_class not in _DEVICE_CLASSES or space not in _MODES:
        raise UnsupportedPicture(f"a colour profile that is not of a camera, scanner, screen or printer; {_ADVICE}")
    if not _PROGRAM_TAGS.isdisjoint(_tags(profile)):
        raise UnsupportedPicture(f"a colour profile with multi-process elements; {_ADVICE}")
    return _MODES[space]


def _tags(profile: bytes) -> list[bytes]:
    count = int.from_bytes(profile[_HEADER_BYTES : _HEADER_BYTES + 4], "big")
    if count > 100:  # littleCMS's own limit
        raise UndecodablePicture(f"the colour profile is damaged; {_ADVICE}")
    first = _HEADER_BYTES + 4
    return [profile[at : at + 4] for at in range(first, first + 12 * count, 12)]


def _cached(profile: bytes) -> tuple[str, Transform | None]:
    """The colour mode and the transform of a profile, cached by its sha256."""
    key = hashlib.sha256(profile).digest()
    with _lock:
        if key in _transforms:
            _transforms.move_to_end(key)
            return _transforms[key]
    mode = _check_header(profile)
    built = mode, _built(profile, mode)
    with _lock:
        _transforms[key] = built
        if len(_transforms) > MAX_TRANSFORMS:
            _transforms.popitem(last=False)
    return built


def _built(profile: bytes, mode: str) -> Transform | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        flags = _BLACK_POINT | _PRECALCULATION[mode]
        transform = ImageCms.ImageCmsTransform(source, srgb, mode, "RGB", _INTENT, flags=flags)
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        raise UndecodablePicture(f"the colour profile cannot be read; {_ADVICE}") from error
    if mode == "CMYK":
        return transform.apply
    colours = _probe(mode)
    shown = np.asarray(transform.apply(Image.fromarray(colours).convert(mode)))
    if np.abs(shown.astype(int) - colours).max() <= 1:
        return None
    if mode == "RGB":
        return lambda picture: transform.apply_in_place(picture.convert("RGB"))
    return lambda picture: Image.fromarray(shown[0][np.asarray(picture.convert("L"))])


def _probe(mode: str) -> NDArray[np.uint8]:
    """Test colours (1, N, 3): every grey, and for RGB a grid of colours. sRGB profiles change none by more than 1."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    return (ramp if mode == "L" else np.concatenate([ramp, grid]))[None]
