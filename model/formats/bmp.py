"""BMP: plain ones; an alpha channel of zeros is none."""

from io import BytesIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from model.formats.errors import UnsupportedPicture
from model.formats.orientation import UPRIGHT
from model.formats.picture_size import check_size


def read(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The pixels as they are stored, and their orientation.

    Raises:
        PictureError: too large, of a kind that is not read, or broken.
    """
    try:
        picture = BmpImageFile(BytesIO(data))
    except OSError as error:
        if str(error).startswith("Unsupported BMP"):
            raise UnsupportedPicture("a BMP of an unusual layout; save it with 24 bits a pixel") from error
        raise
    check_size(*picture.size, max_pixels)
    if picture.tile[0].codec_name != "raw":  # run lengths are decoded in Python, for seconds, under the GIL
        raise UnsupportedPicture("a run-length encoded BMP; send a plain one")
    picture.load()
    # Most writers leave the fourth byte at zero, whatever the header calls it; every viewer shows such a picture.
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (0, 0):
        return picture.convert("RGB"), UPRIGHT
    return picture, UPRIGHT
