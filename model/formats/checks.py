"""Checks before decoding, shared by the formats: the size of a picture, and damage by a transfer in text mode."""

from model.formats.errors import PictureTooLarge, UndecodablePicture

DEFAULT_MAX_PIXELS = 16_000_000
#: Limits of the shape: a picture of one cell is not a line or a dot.
MIN_SIDE_PIXELS = 8
MAX_ASPECT_RATIO = 10


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Check the number of pixels and the shape.

    Raises:
        PictureTooLarge: more than max_pixels.
        UndecodablePicture: a side is too short or too long.
    """
    if width * height > max_pixels:
        raise PictureTooLarge(f"{width} x {height} pixels; at most {max_pixels} are allowed")
    if min(width, height) < MIN_SIDE_PIXELS:
        raise UndecodablePicture(f"{width} x {height} pixels; each side must have at least {MIN_SIDE_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UndecodablePicture(
            f"{width} x {height} pixels; the longer side may be at most {MAX_ASPECT_RATIO} times the shorter"
        )


#: In pixels and in compressed data one LF in 256 follows a CR by chance. This many of them are no chance.
_MIN_LINE_FEEDS = 16


def check_line_ends(form: str, data: bytes) -> None:
    """Check that a BMP, TIFF or WebP was not transferred in text mode, which inserts CR before every LF.

    A file of the size that it states is complete.

    Raises:
        UndecodablePicture: every LF follows a CR.
    """
    if len(data) == _stated_size(form, data):
        return
    at = data.find(b"\n")
    while at >= 0 and data[at - 1 : at] == b"\r":
        at = data.find(b"\n", at + 1)
    if at < 0 and data.count(b"\n") >= _MIN_LINE_FEEDS:
        raise UndecodablePicture(
            f"the {form} data is damaged: its line ends were changed by a transfer in text mode; send the file again in"
            " binary mode"
        )


def _stated_size(form: str, data: bytes) -> int | None:
    if form == "BMP":
        return int.from_bytes(data[2:6], "little")
    if form == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8
    return None
