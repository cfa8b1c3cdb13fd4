"""BMP and WebP files."""

from io import BytesIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.formats.checks import check_size
from model.formats.display import UPRIGHT, orientation_of
from model.formats.errors import UndecodablePicture, UnsupportedPicture


def read_bmp(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The pixels of a BMP as stored, and their orientation.

    Raises:
        PictureError: too large, unsupported or damaged.
    """
    try:
        picture = BmpImageFile(BytesIO(data))
    except OSError as error:
        if str(error).startswith("Unsupported BMP"):
            raise UnsupportedPicture("a BMP of an unsupported layout; save it with 24 bits a pixel") from error
        raise
    check_size(*picture.size, max_pixels)
    if picture.tile[0].codec_name != "raw":  # Pillow decodes run lengths in Python: seconds under the GIL
        raise UnsupportedPicture("a run-length encoded BMP; save it without compression")
    picture.load()
    # Most writers set the fourth byte to zero, even if the header declares alpha; viewers then ignore it.
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (0, 0):
        return picture.convert("RGB"), UPRIGHT
    return picture, UPRIGHT


def read_webp(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The frame of a WebP as stored, and its orientation.

    Raises:
        PictureError: too large, an animation, or damaged.
    """
    check_size(*_canvas(data[:30]), max_pixels)  # the parser allocates the canvas on opening
    picture = WebPImageFile(BytesIO(data))
    check_size(*picture.size, max_pixels)
    if picture.n_frames > 1:
        raise UnsupportedPicture("an animation; send one frame as a still picture")
    picture.load()
    return picture, orientation_of(picture)


def _canvas(head: bytes) -> tuple[int, int]:
    """Width and height, from the first chunk (WebP container specification, RFC 9649 sections 2.5 to 2.7)."""
    chunk = head[12:16]
    if len(head) == 30 and chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if len(head) == 30 and chunk == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if len(head) >= 25 and chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise UndecodablePicture("the WEBP data is damaged or cut off")
