"""From stored pixels to what a viewer shows: orientation applied, transparency over white."""

from collections.abc import Mapping

import numpy as np
from PIL import ExifTags, Image

from model.formats.errors import UnsupportedPicture

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UPRIGHT = 1


def orientation_of(picture: Image.Image) -> int:
    """The orientation of a loaded picture, 1 to 8, by EXIF or else XMP.

    1 if the metadata cannot be read or the value is invalid, as in viewers.
    """
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's EXIF parser raises many kinds; none concerns the pixels
        return UPRIGHT
    return known(found)


def orientation_of_metadata(metadata: Mapping[str, bytes]) -> int:
    """The orientation by EXIF and XMP blocks, under Pillow's names."""
    picture = Image.new("1", (1, 1))
    picture.info.update(metadata)
    return orientation_of(picture)


def known(value: object) -> int:
    """The orientation of a tag's value; 1 if it is invalid."""
    return value if isinstance(value, int) and value in _UPRIGHT else UPRIGHT


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture rotated or mirrored for display; the same object if it is upright."""
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


#: Least mean opacity. A cell cut out of its field covers several per cent of it.
MIN_OPACITY = 0.01


def opaque(picture: Image.Image) -> Image.Image:
    """The picture over a white background, as RGB.

    Raises:
        UnsupportedPicture: it is almost completely transparent.
    """
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    opacity = layer.getchannel("A")
    if opacity.getextrema()[0] == 255:
        return layer.convert("RGB")
    if float(np.asarray(opacity).mean()) < MIN_OPACITY * 255:
        raise UnsupportedPicture("a completely transparent picture; save it without its alpha channel")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
