"""WebP: the canvas by its first chunk, and one frame."""

from io import BytesIO

from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.orientation import orientation_of
from model.formats.picture_size import check_size


def read(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """The one frame, as it is stored, and its orientation.

    Raises:
        PictureError: too large, an animation, or broken.
    """
    check_size(*_canvas(data[:30]), max_pixels)  # the parser allocates the canvas on opening
    picture = WebPImageFile(BytesIO(data))
    check_size(*picture.size, max_pixels)
    if picture.n_frames > 1:
        raise UnsupportedPicture("an animation: which of its frames is the cell cannot be told; send one picture")
    picture.load()
    return picture, orientation_of(picture)


def _canvas(head: bytes) -> tuple[int, int]:
    """Width and height by the first chunk (WebP container specification, RFC 9649 sections 2.5 to 2.7)."""
    chunk = head[12:16]
    if len(head) == 30 and chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if len(head) == 30 and chunk == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if len(head) >= 25 and chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise UndecodablePicture("the WEBP data is broken or cut off")
