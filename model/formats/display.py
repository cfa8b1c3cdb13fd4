"""From stored pixels to what a viewer shows: orientation applied, transparency over white."""

from io import BytesIO

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

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
    """The orientation of a loaded picture by EXIF, or by XMP where EXIF has none: 1 to 8.

    Metadata that cannot be read, or a value that is no orientation, means 1, as in every viewer: the pixels are whole.
    """
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's EXIF parser raises a dozen kinds, and none of them speaks of the pixels
        return UPRIGHT
    return known(found)


def orientation_of_jpeg(data: bytes) -> int:
    """The same of a JPEG file, whose pixels are not Pillow's."""
    try:
        return orientation_of(JpegImageFile(BytesIO(data)))
    except Exception:  # of Pillow's parser of segments; the pixels are whole
        return UPRIGHT


def orientation_of_xmp(xmp: bytes) -> int:
    """The same by XMP alone."""
    metadata = Image.new("1", (1, 1))
    metadata.info["xmp"] = xmp
    return orientation_of(metadata)


def known(value: object) -> int:
    """The orientation that a tag's value stands for; 1 for whatever is none."""
    return value if isinstance(value, int) and value in _UPRIGHT else UPRIGHT


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture as a person sees it; the same object where nothing is to be turned."""
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


#: Mean opacity below which there is nothing to see. A cell cut out of its field covers several per cent of it.
MIN_OPACITY = 0.01


def opaque(picture: Image.Image) -> Image.Image:
    """The picture over white, as RGB.

    Raises:
        UnsupportedPicture: it is transparent everywhere, or nearly so.
    """
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    if float(np.asarray(layer.getchannel("A")).mean()) < MIN_OPACITY * 255:
        raise UnsupportedPicture("a picture that is transparent everywhere; save it without its alpha channel")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
