"""Transparency: what shows through is white, and a picture of which nothing shows is refused."""

import numpy as np
from PIL import Image

from model.formats.errors import UnsupportedPicture

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
